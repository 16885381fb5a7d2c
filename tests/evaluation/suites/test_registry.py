from pathlib import Path

import numpy as np
import pytest

from tain.evaluation.suites.pairs import own_set
from tain.evaluation.suites.registry import load_suites
from tain.evaluation.suites.sts import sts_sources
from tain.evaluation.suites.suite import SuiteOptions
from tain.foundation.errors import UserError


def table(path: Path, *lines: str) -> str:
    path.write_text("\n".join(line.replace("|", "\t") for line in lines) + "\n", encoding="utf-8")
    return str(path)


def titles(names: list[str], data: Path, split: str = "test") -> list[str]:
    return [scored.title for suite in load_suites(names, SuiteOptions(data=data, split=split)) for scored in suite.sets]  # pyright: ignore[reportArgumentType]


def test_the_seven_sets_come_in_the_papers_order():
    assert [source.title for source in sts_sources()] == ["STS12", "STS13", "STS14", "STS15", "STS16", "STS-B", "SICK-R"]


def test_an_absent_set_is_named_and_the_rest_is_loaded(small_data: Path):
    (suite,) = load_suites(["sts"], SuiteOptions(data=small_data))
    assert [scored.title for scored in suite.sets] == ["STS12", "STS14", "STS15", "STS-B", "SICK-R"]
    assert suite.absent == (("English, test", "STS13"), ("English, test", "STS16"))


def test_dev_stands_for_the_sets_that_settings_may_be_chosen_on(small_data: Path):
    assert titles(["sts", "words"], small_data, "dev") == ["STS-B dev", "SICK-R trial", "SimLex-999"]


@pytest.mark.parametrize(
    ("name", "instead"), [("stsb", "stsb_dev"), ("sick", "sick_trial"), ("few_shot_snips", "few_shot_snips_dev"), ("sts12", None)]
)
def test_a_set_of_the_test_split_is_refused_with_split_dev(small_data: Path, name: str, instead: str | None):
    hint = f", or name {instead}" if instead else "$"
    with pytest.raises(UserError, match=f"set {name} is not in the dev split: remove --split{hint}"):
        load_suites([name], SuiteOptions(data=small_data, split="dev"))


def test_a_set_may_be_named_by_itself_and_counts_once(small_data: Path):
    assert titles(["stsb_dev", "sts12", "stsb_dev"], small_data) == ["STS-B dev", "STS12"]
    assert titles(["sts12", "sts"], small_data)[:2] == ["STS12", "STS14"]


def test_word_sets_are_grouped_by_language_and_unknown_ones_stand_apart(small_data: Path):
    (suite,) = load_suites(["words"], SuiteOptions(data=small_data))
    groups: dict[str, list[str]] = {}
    for scored in suite.sets:
        groups.setdefault(scored.group, []).append(scored.title)
    assert groups == {
        "English": ["SimLex-999", "MEN", "CARD-660", "Multi-SimLex eng"],
        "other languages": ["WordSim-353 de", "Multi-SimLex fra"],
        "sets unknown to tain": ["our_own"],
    }


def test_multisimlex_joins_words_and_scores_by_their_id(small_data: Path):
    ((french,),) = (suite.sets for suite in load_suites(["multisimlex_fra"], SuiteOptions(data=small_data)))
    assert french.left == ("un", "e", "i") and french.right == ("deux", "f", "j")
    np.testing.assert_array_equal(french.gold, [2.5, 3, 1])


MULTISIMLEX_WORDS = (
    "id\tENG 1\tENG 2\tPOL 1\tPOL 2\tFRA 1\tFRA 2",
    "1\tarm\tmuscle\tramie\tmiesien\tbras\tmuscle",
    "2\tcup\tmug\tkubek\tkufel\ttasse\tchope",
    "3\tsun\tmoon\tslonce\tksiezyc\tsoleil\tlune",
)
MULTISIMLEX_SCORES = ("id\tENG\tPOL\tFRA", "3\t1.0\t3.5\t2.0", "1\t2.0\t3.0\t3.0", "2\t5.0\t5.5\t4.5")


@pytest.fixture
def crossed(tmp_path: Path) -> Path:
    (tmp_path / "multisimlex").mkdir()
    (tmp_path / "multisimlex" / "translation.tsv").write_text("\n".join(MULTISIMLEX_WORDS) + "\n", encoding="utf-8")
    (tmp_path / "multisimlex" / "scores.tsv").write_text("\n".join(MULTISIMLEX_SCORES) + "\n", encoding="utf-8")
    return tmp_path


def test_multisimlex_crosses_the_words_of_two_languages_and_takes_the_mean_of_their_scores(crossed: Path):
    (suite,) = load_suites(["words-crossed"], SuiteOptions(data=crossed))
    assert [scored.key for scored in suite.sets] == ["multisimlex_eng-fra", "multisimlex_eng-pol", "multisimlex_fra-pol"]
    assert [scored.group for scored in suite.sets] == ["Mirror-BERT's pairs", "other pairs", "other pairs"]
    in_french, in_polish, _ = suite.sets
    assert in_french.languages == ("en", "fr")
    pairs = list(zip(in_french.left, in_french.right, in_french.gold, strict=True))
    assert pairs == [  # scores that are just 1 apart stay
        ("arm", "muscle", 2.5),
        ("muscle", "bras", 2.5),
        ("cup", "chope", 4.75),
        ("mug", "tasse", 4.75),
        ("sun", "lune", 1.5),
        ("moon", "soleil", 1.5),
    ]
    assert "sun" not in in_polish.left  # 1.0 and 3.5 are of different meanings
    assert list(in_polish.gold) == [2.5, 2.5, 5.25, 5.25]


def test_a_crossed_set_is_named_by_itself(crossed: Path):
    assert titles(["multisimlex_fra-pol"], crossed) == ["fr-pl"]


def test_card660_writes_blanks_as_underscores(small_data: Path):
    ((card,),) = (suite.sets for suite in load_suites(["card660"], SuiteOptions(data=small_data)))
    assert card.left[:2] == ("ice cream", "big car")


@pytest.mark.parametrize(
    "header",
    ["sentence1|sentence2|score", "word1|word2|score", "a|b|score", "score|a|b", "x|score|sentence1|sentence2"],
)
def test_an_own_table_may_name_its_columns_in_several_ways(tmp_path: Path, header: str):
    cells = {"sentence1": "left {}", "sentence2": "right {}", "word1": "left {}", "word2": "right {}", "a": "left {}", "b": "right {}"}
    rows = ["|".join({**cells, "score": "{}", "x": "?"}[column].format(row) for column in header.split("|")) for row in (1, 2, 3)]
    found = own_set(table(tmp_path / "mine.tsv", header, *rows))
    assert (found.title, found.left[0], found.right[2], found.gold.tolist()) == ("mine", "left 1", "right 3", [1, 2, 3])


def test_quotation_marks_in_a_tsv_are_plain_characters(tmp_path: Path):
    found = own_set(table(tmp_path / "mine.tsv", "sentence1|sentence2|score", '"He said|that"|1', "b|c|2", "d|e|3"))
    assert (found.left[0], found.right[0]) == ('"He said', 'that"')


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["left|right|points", "a|b|1"], "columns left, right, points.*score"),
        (["sentence1|score", "a|1"], "two text columns"),
        (
            ["id|one|other|score", "7|a|b|1"],
            "columns id, one, other, score, but scored pairs are needed: .*two text columns and score only",
        ),
        (["sentence1|sentence2|score", "a|b|1", "c|d|high", "e|f|3"], "row 2: score is 'high'"),
        (["sentence1|sentence2|score", "a|b|nan", "c|d|1", "e|f|3"], "row 1: score is 'nan'"),
        (["sentence1|sentence2|score", "a|b|1", "c|d|2"], "2 scored pairs, too few"),
        (["sentence1|sentence2|score", "a| |1", "c|d|2", "e|f|3"], "row 1: column 'sentence2' is blank"),
    ],
)
def test_a_table_that_cannot_work_is_refused_in_one_line(tmp_path: Path, lines: list[str], words: str):
    with pytest.raises(UserError, match=words) as refused:
        own_set(table(tmp_path / "mine.tsv", *lines))
    assert "\n" not in str(refused.value)


def test_an_own_table_needs_no_data_folder(tmp_path: Path):
    (suite,) = load_suites([table(tmp_path / "mine.tsv", "a|b|score", "a|b|1", "c|d|2", "e|f|3")], SuiteOptions())
    assert (suite.name, suite.sets[0].title) == ("own", "mine")


def test_without_data_a_suite_says_what_to_give():
    with pytest.raises(UserError, match=r"needs data, but none was given: give --data DIR, a folder that holds sts/"):
        load_suites(["sts", "words"], SuiteOptions())


def test_all_wrong_names_are_told_at_once(small_data: Path):
    with pytest.raises(UserError, match=r"'stz'.*'nothing'.*sts17 has no dev split"):
        load_suites(["stz", "nothing", "sts17"], SuiteOptions(data=small_data, split="dev"))


def test_a_folder_without_the_sets_says_what_was_looked_for(tmp_path: Path):
    with pytest.raises(UserError, match=r"none of the sets of 'sts'.*sts/sts12.tsv"):
        load_suites(["sts"], SuiteOptions(data=tmp_path))


def test_a_data_path_that_is_no_folder_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="not a folder"):
        load_suites(["sts"], SuiteOptions(data=tmp_path / "nowhere"))


def test_no_suite_at_all_is_refused():
    with pytest.raises(UserError, match="nothing to evaluate"):
        load_suites([], SuiteOptions())


@pytest.mark.real_data
def test_the_shared_sets_have_the_sizes_they_are_known_by(shared_data: Path):
    sizes = {
        scored.title: len(scored.gold)
        for suite in load_suites(["sts", "sts17", "words"], SuiteOptions(data=shared_data))
        for scored in suite.sets
    }
    expected = {"STS12": 3108, "STS14": 3750, "STS15": 3000, "STS-B": 1379, "SICK-R": 4927, "ar-ar": 250, "SimLex-999": 999, "MEN": 3000}
    assert {title: sizes[title] for title in expected} == expected
    assert sum(title.startswith("Multi-SimLex") for title in sizes) == 12
    assert sizes["Multi-SimLex fra"] == 1888

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tain.evaluation.encoding import EncodedOnce, OnePerLanguage
from tain.evaluation.metrics import unit_rows
from tain.evaluation.report import evaluate
from tain.evaluation.suites.lexicon import Lexicon, csls, lexicon_sources, orthogonal_map
from tain.evaluation.suites.registry import load_suites
from tain.evaluation.suites.suite import SuiteOptions
from tain.foundation.errors import ShapeError, UserError

WORDS = 60


class Known:
    """Gives the vectors it was made with; zeros for other words."""

    def __init__(self, name: str, vectors: dict[str, np.ndarray]) -> None:
        self.name = name
        self._vectors = vectors
        self._dim = len(next(iter(vectors.values())))

    def encode(self, texts: list[str], /) -> np.ndarray:
        return np.stack([self._vectors.get(text, np.zeros(self._dim)) for text in texts]).astype(np.float32)


def rotation(dim: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(dim, dim)))[0]


@pytest.fixture
def turned(rng: np.random.Generator) -> OnePerLanguage:
    """German words are the English ones turned and scaled: a map can undo that."""
    english = rng.normal(size=(WORDS, 8))
    german = 3 * english @ rotation(8, rng)
    names = [f"w{n}" for n in range(WORDS)]
    return OnePerLanguage(
        {
            "en": Known("en", dict(zip(names, english, strict=True))),
            "de": Known("de", dict(zip((f"{name}_de" for name in names), german, strict=True))),
        }
    )


@pytest.fixture
def dictionaries(tmp_path: Path) -> Path:
    (tmp_path / "bli").mkdir()
    for part, numbers in (("train", range(40)), ("test", range(40, WORDS))):
        lines = ["en\tde", *(f"w{n}\tw{n}_de" for n in numbers)]
        (tmp_path / "bli" / f"en-de.{part}.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def lexicon_in(data: Path) -> Lexicon:
    ((task,),) = (suite.sets for suite in load_suites(["bli_en-de"], SuiteOptions(data=data)))
    assert isinstance(task, Lexicon)
    return task


def test_the_map_is_orthogonal_and_undoes_a_rotation(rng: np.random.Generator):
    left = rng.normal(size=(30, 6))
    turn = rotation(6, rng)
    found = orthogonal_map(left, left @ turn)
    np.testing.assert_allclose(found @ found.T, np.eye(6), atol=1e-10)
    np.testing.assert_allclose(found, turn, atol=1e-8)


def test_no_other_rotation_brings_the_pairs_nearer(rng: np.random.Generator):
    left, right = rng.normal(size=(2, 30, 6))
    best = np.linalg.norm(left @ orthogonal_map(left, right) - right)
    assert all(best <= np.linalg.norm(left @ rotation(6, rng) - right) for _ in range(200))


def test_csls_is_that_of_its_definition(rng: np.random.Generator):
    left, right = unit_rows(rng.normal(size=(25, 5))), unit_rows(rng.normal(size=(33, 5)))
    cosines = left @ right.T
    found = np.concatenate(list(csls(left, right, is_neighbour=np.ones(25, dtype=bool), queries=np.array([3, 0, 24]), neighbours=4)))
    for row, query in enumerate((3, 0, 24)):
        for candidate in range(33):
            near_query = np.mean(sorted(cosines[query])[-4:])
            near_candidate = np.mean(sorted(cosines[:, candidate])[-4:])
            assert found[row, candidate] == pytest.approx(2 * cosines[query, candidate] - near_query - near_candidate, abs=1e-5)


def test_csls_passes_a_hub_over():
    towards = np.array([[1.0, 0.3, 0.0], [1.0, -0.3, 0.0], [1.0, 0.0, 0.3]])
    left = unit_rows(towards)
    right = unit_rows(np.array([[1.0, 0.0, 0.1], [1.0, 0.85, 0.0], [1.0, -0.85, 0.0], [1.0, 0.0, 0.85]]))  # the first is near to all
    assert (left @ right.T).argmax(axis=1).tolist() == [0, 0, 0]
    (scores,) = csls(left, right, is_neighbour=np.ones(3, dtype=bool), queries=np.arange(3), neighbours=2)
    assert scores.argmax(axis=1).tolist() == [1, 2, 3]


def test_a_language_that_is_another_one_turned_is_translated_without_a_mistake(turned: OnePerLanguage, dictionaries: Path):
    (suite,) = evaluate([turned], ["bli_en-de"], dictionaries, resamples=20).suites
    (row,) = suite.groups[0].rows
    assert (row.title, row.items, row.figures[0].value) == ("en-de", 20, 100)
    assert "CSLS with k = 10" in suite.note


def test_vectors_that_have_nothing_to_do_with_each_other_find_next_to_nothing(dictionaries: Path, rng: np.random.Generator):
    names = [f"w{n}{end}" for n in range(WORDS) for end in ("", "_de")]
    noise = Known("noise", dict(zip(names, rng.normal(size=(len(names), 8)), strict=True)))
    (outcome,) = lexicon_in(dictionaries).outcomes(EncodedOnce(noise))
    assert outcome.shares.mean() < 0.3


def test_any_of_several_translations_is_right_and_the_word_counts_once(turned: OnePerLanguage, dictionaries: Path):
    path = dictionaries / "bli" / "en-de.test.tsv"
    path.write_text("en\tde\n" + "".join(f"w{n}\tw{n - 40}_de\nw{n}\tw{n}_de\n" for n in range(40, WORDS)))
    (outcome,) = lexicon_in(dictionaries).outcomes(EncodedOnce(turned))
    assert outcome.shares.tolist() == [1.0] * 20


def test_equal_scores_share_the_first_place(dictionaries: Path):
    same = Known("same", {f"w{n}{end}": np.eye(4)[n % 2] for n in range(WORDS) for end in ("", "_de")})
    (outcome,) = lexicon_in(dictionaries).outcomes(EncodedOnce(same))
    np.testing.assert_allclose(outcome.shares, 1 / 30)  # half of the 60 German words have the very same vector


def test_a_word_without_a_vector_is_not_found_and_hides_no_other(turned: OnePerLanguage, dictionaries: Path):
    test = dictionaries / "bli" / "en-de.test.tsv"
    test.write_text(test.read_text() + "unheard\tw1_de\nw1\tungehört\n")
    (outcome,) = lexicon_in(dictionaries).outcomes(EncodedOnce(turned))
    assert outcome.shares.tolist() == [1.0] * 20 + [0.0, 0.0]


def test_models_of_two_widths_are_refused(dictionaries: Path):
    pair = OnePerLanguage({"en": Known("a", {"w0": np.ones(3)}), "de": Known("b", {"w0_de": np.ones(4)})})
    with pytest.raises(UserError, match=r"gives vectors of dimension 3 and 4: give models of equal dimension"):
        evaluate([pair], ["bli_en-de"], dictionaries, resamples=5)
    with pytest.raises(UserError, match="an orthogonal map needs equal dimensions"):
        lexicon_in(dictionaries).is_found(np.ones((WORDS, 3)), np.ones((WORDS, 4)), name="pair")


def test_a_model_of_other_languages_is_refused(dictionaries: Path):
    foreign = OnePerLanguage({"en": Known("a", {"x": np.ones(3)}), "fr": Known("b", {"y": np.ones(3)})})
    with pytest.raises(UserError, match=r"supports en, fr, but there are texts in de"):
        evaluate([foreign], ["bli_en-de"], dictionaries, resamples=5)
    with pytest.raises(UserError, match=r"has vectors for 0 training pairs of en-de"):
        evaluate([Known("a", {"x": np.ones(3)})], ["bli_en-de"], dictionaries, resamples=5)


def test_dictionaries_smaller_than_a_neighbourhood_are_refused(dictionaries: Path):
    for part in ("train", "test"):
        (dictionaries / "bli" / f"en-de.{part}.tsv").write_text("en\tde\nw1\tw1_de\n")
    with pytest.raises(UserError, match=r"have 1 words in a language, fewer than the 10 neighbours of CSLS"):
        load_suites(["bli_en-de"], SuiteOptions(data=dictionaries))


def test_columns_must_be_the_languages(dictionaries: Path):
    (dictionaries / "bli" / "en-de.train.tsv").write_text("de\ten2\nx\ty\n")
    with pytest.raises(UserError, match="has the columns de, en2, but en, de are needed"):
        load_suites(["bli"], SuiteOptions(data=dictionaries))


def test_files_may_name_the_languages_in_either_order_and_the_direction_stays(dictionaries: Path):
    for part in ("train", "test"):
        path = dictionaries / "bli" / f"en-de.{part}.tsv"
        swapped = ["\t".join(reversed(line.split("\t"))) for line in path.read_text().splitlines()]
        (dictionaries / "bli" / f"de-en.{part}.tsv").write_text("\n".join(swapped) + "\n")
        path.unlink()
    lexicon = lexicon_in(dictionaries)
    assert lexicon.languages == ("en", "de")
    assert lexicon.trained[0] == ("w0", "w0_de")


def test_a_pair_with_one_file_in_each_order_is_absent(dictionaries: Path):
    (dictionaries / "bli" / "en-de.train.tsv").rename(dictionaries / "bli" / "de-en.train.tsv")
    with pytest.raises(UserError, match="none of the sets"):
        lexicon_in(dictionaries)


def test_the_pairs_are_named_as_their_data_are():
    assert "bli_fi-hr" in {source.key for source in lexicon_sources()}
    assert len({frozenset(source.title.split("-")) for source in lexicon_sources()}) == 28  # of eight languages each with each


def test_maps_need_pairs():
    with pytest.raises(ShapeError, match="two tables of equal shape"):
        orthogonal_map(np.ones((2, 3)), np.ones((3, 3)))


@pytest.mark.real_data
def test_spelling_alone_finds_some_translations(shared_data: Path):
    class Letters:
        name = "letters"

        def encode(self, texts: list[str], /) -> np.ndarray:
            vectors = np.zeros((len(texts), 26 * 26), dtype=np.float32)
            for row, text in enumerate(texts):
                letters = [ord(letter) - 97 for letter in text.lower() if "a" <= letter <= "z"]
                for pair in pairwise(letters):
                    vectors[row, pair[0] * 26 + pair[1]] += 1
            return vectors

    (row,) = evaluate([Letters()], ["bli_it-fr"], shared_data, resamples=20).suites[0].groups[0].rows
    assert row.items == 1936 and 5 < row.figures[0].value < 60

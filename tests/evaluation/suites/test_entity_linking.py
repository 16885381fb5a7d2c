import gzip
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tain.evaluation.encoding import cosine_blocks
from tain.evaluation.metrics import unit_rows
from tain.evaluation.report import evaluate
from tain.evaluation.suites.entity_linking import NameSet, concepts_of
from tain.evaluation.suites.registry import load_suites
from tain.evaluation.suites.suite import SuiteOptions
from tain.foundation.errors import UserError

MENTIONS = [("copper overload", "D1"), ("wilson disease", "D2"), ("skin and eye cancer", "D3|OMIM:4"), ("unheard of", "D9")]
NAMES = [
    ("D1", "copper overload syndrome"),
    ("D2|7", "disease of wilson"),
    ("D3", "cancer of the skin"),
    ("4", "cancer of the eye"),
    ("D5", "wilson"),
]


@pytest.fixture
def diseases(tmp_path: Path) -> Path:
    (tmp_path / "biomed").mkdir()
    lines = ["pmid\tmention\ttype\tconcept", *(f"1\t{mention}\tx\t{concept}" for mention, concept in MENTIONS)]
    for part in ("test", "dev"):
        (tmp_path / "biomed" / f"ncbi_disease_{part}.tsv").write_text("\n".join(lines) + "\n")
    with gzip.open(tmp_path / "biomed" / "medic_2012.tsv.gz", "wt") as file:
        file.write("\n".join(["concept\tterm\tkind", *(f"{concept}\t{name}\tname" for concept, name in NAMES)]) + "\n")
    return tmp_path


def names_in(data: Path) -> NameSet:
    ((task,),) = (suite.sets for suite in load_suites(["ncbi"], SuiteOptions(data=data)))
    assert isinstance(task, NameSet)
    return task


def small(gold: list[str], concepts: list[str]) -> NameSet:
    names = tuple(f"name {row}" for row in range(len(concepts)))
    rows_of = {concept: [row for row, other in enumerate(concepts) if other == concept] for concept in concepts}
    return NameSet(
        key="x", title="X", mentions=tuple(gold), gold=tuple(frozenset([concept]) for concept in gold), names=names, rows_of=rows_of
    )


def test_concepts_are_told_apart_and_lose_their_name_space():
    assert concepts_of("D007108|OMIM:215600") == {"D007108", "215600"}
    assert concepts_of("MESH:D1+D2") == {"D1", "D2"}


def test_a_mention_is_right_when_any_gold_concept_is_among_the_first_names(rng: np.random.Generator):
    concepts = list(rng.choice(list("abcdefgh"), size=40))
    gold = list(rng.choice(list("abcdefgh"), size=15))
    mentions, names = rng.normal(size=(15, 4)), rng.normal(size=(40, 4))
    order = np.argsort(-unit_rows(mentions) @ unit_rows(names).T, axis=1)
    expected = [
        [float(concept in {concepts[row] for row in indices[:k]}) for concept, indices in zip(gold, order, strict=True)] for k in (1, 5)
    ]
    np.testing.assert_allclose(small(gold, concepts).chances(cosine_blocks(mentions, names)), expected)


def test_equal_names_fall_in_random_order():
    concepts = ["a", "b", "b", "c", "b", "a", "c"]
    names = np.array([[1.0, 0], [1, 0], [1, 0], [1, 0], [0, 1], [1, 0], [1, 0.2]])  # five alike, two of them of concept a, one nearer
    found = small(["a"], concepts).chances(cosine_blocks(np.array([[1.0, 0.2]]), names))
    tied = [row for row in range(7) if names[row, 1] == 0]
    draws = [[6, *order, 4] for order in permutations(tied)]
    for k, chance in zip((1, 5), found[:, 0], strict=True):
        assert chance == pytest.approx(np.mean([any(concepts[row] == "a" for row in draw[:k]) for draw in draws]))
    assert found[0, 0] == 0


def test_a_collapsed_encoder_finds_gold_names_by_chance_alone():
    concepts = ["a"] * 3 + ["b"] * 17
    found = small(["a", "b"], concepts).chances(cosine_blocks(np.ones((2, 4)), np.ones((20, 4))))
    np.testing.assert_allclose(found[0], [3 / 20, 17 / 20])


def test_each_accuracy_has_a_group_and_absent_sets_are_named(diseases: Path, bag: Callable[..., Any]):
    (suite,) = evaluate([bag(dim=256)], ["entity-linking"], diseases, resamples=20).suites
    first, fifth = suite.groups
    assert (first.title, fifth.title) == ("accuracy@1", "accuracy@5")
    assert [row.key for row in (*first.rows, *fifth.rows)] == ["ncbi_at_1", "ncbi_at_5"]
    assert first.absent == ("BC5CDR-disease", "BC5CDR-chemical", "AskAPatient", "COMETA")
    assert first.rows[0].items == 4 and first.rows[0].figures[0].value <= fifth.rows[0].figures[0].value == 75
    assert suite.note == "NCBI-disease: 5 names, 1 of 4 mentions have no name there and count as wrong"


def test_a_name_of_several_concepts_is_each_ones(diseases: Path):
    task = names_in(diseases)
    assert task.rows_of["7"] == task.rows_of["D2"] == [1]
    assert task.gold[2] == {"D3", "4"}


def test_dev_stands_for_the_development_mentions(diseases: Path):
    (suite,) = load_suites(["entity-linking"], SuiteOptions(data=diseases, split="dev"))
    assert [task.key for task in suite.sets] == ["ncbi_dev"]


def test_a_dictionary_with_other_columns_is_refused(diseases: Path):
    with gzip.open(diseases / "biomed" / "medic_2012.tsv.gz", "wt") as file:
        file.write("id\tname\nD1\tx\n")
    with pytest.raises(UserError, match=r"medic_2012.tsv.gz' has the columns id, name, but concept, term are needed"):
        load_suites(["entity-linking"], SuiteOptions(data=diseases))


def test_a_blank_mention_is_refused(diseases: Path):
    (diseases / "biomed" / "ncbi_disease_test.tsv").write_text("mention\tconcept\n \tD1\n")
    with pytest.raises(UserError, match=r"row 1: column 'mention' is blank"):
        load_suites(["entity-linking"], SuiteOptions(data=diseases))


def test_mentions_without_any_name_are_refused(diseases: Path):
    (diseases / "biomed" / "ncbi_disease_test.tsv").write_text("mention\tconcept\nwilson\tD8\ncopper\tD9\n")
    with pytest.raises(UserError, match=r"ncbi_disease_test.tsv' has no concept that has a name in biomed/medic_2012.tsv.gz"):
        load_suites(["entity-linking"], SuiteOptions(data=diseases))


@pytest.mark.real_data
def test_nearly_every_shared_mention_has_a_name(shared_data: Path):
    task = names_in(shared_data)
    assert len(task.mentions) == 960 and len(task.names) > 70_000
    assert sum(any(concept in task.rows_of for concept in concepts) for concepts in task.gold) > 900


@pytest.mark.real_data
def test_equal_spelling_links_many_names(shared_data: Path, bag: Callable[..., Any]):
    task = names_in(shared_data)
    rows = {row for concepts in task.gold for concept in concepts for row in task.rows_of.get(concept, ())}
    kept = sorted(rows)[:3000]
    index = {row: new for new, row in enumerate(kept)}
    fewer = NameSet(
        key="x",
        title="X",
        mentions=task.mentions[:200],
        gold=task.gold[:200],
        names=tuple(task.names[row] for row in kept),
        rows_of={concept: [index[row] for row in rows if row in index] for concept, rows in task.rows_of.items()},
    )
    letters = bag(chars=3, dim=512)
    found = fewer.chances(cosine_blocks(letters.encode(list(fewer.mentions)), letters.encode(list(fewer.names))))
    assert 0.3 < found[0].mean() <= found[1].mean()

from pathlib import Path

import numpy as np
import pytest

from tain.evaluation.baselines import Lexical
from tain.evaluation.encoding import EncodedOnce, cosine_blocks
from tain.evaluation.metrics import unit_rows
from tain.evaluation.report import evaluate
from tain.evaluation.suites.few_shot import DRAWS, SHOTS, FewShotSet
from tain.evaluation.suites.registry import load_suites
from tain.evaluation.suites.suite import SuiteOptions
from tain.evaluation.table import as_table
from tain.foundation.errors import UserError

CLASSES = {
    "play": ["play some music", "play a song", "play jazz now", "play the album"],
    "wake": ["wake me up", "set an alarm", "alarm at six"],
}


def small(rng: np.random.Generator, *, pool: int = 60, tested: int = 25, classes: int = 4) -> FewShotSet:
    labels = np.concatenate([np.arange(classes), rng.integers(classes, size=pool - classes)])
    return FewShotSet(
        key="x",
        title="X",
        pool=tuple(f"pool {row}" for row in range(pool)),
        pool_labels=labels,
        texts_tested=tuple(f"test {row}" for row in range(tested)),
        labels=rng.integers(-1, classes, size=tested),
        classes=tuple("abcdefgh"[:classes]),
    )


def table(path: Path, rows: list[tuple[str, str]], columns: str = "text\tlabel") -> str:
    path.write_text("\n".join([columns, *("\t".join(row) for row in rows)]) + "\n")
    return str(path)


def test_a_text_gets_the_class_of_the_nearest_centroid(rng: np.random.Generator):
    given = small(rng)
    vectors = {text: rng.normal(size=6) for text in (*given.pool, *given.texts_tested)}
    examples = given.texts()[0][1][len(given.texts_tested) :]
    found = given.shares(cosine_blocks(*(np.array([vectors[text] for text in side]) for side in (given.texts_tested, examples))))
    assert found.shape == (len(SHOTS), len(given.texts_tested), DRAWS)
    for number, shots in enumerate(SHOTS):
        for draw in range(DRAWS):
            drawn = given._drawn[draw]
            centroids = np.stack([unit_rows(np.array([vectors[given.pool[row]] for row in rows[:shots]])).mean(axis=0) for rows in drawn])
            nearest = (unit_rows(np.array([vectors[text] for text in given.texts_tested])) @ centroids.T).argmax(axis=1)
            np.testing.assert_array_equal(found[number, :, draw], (nearest == given.labels).astype(float))


def test_examples_are_of_their_class_without_repeats_and_the_fewer_are_among_the_more(rng: np.random.Generator):
    given = small(rng)
    for drawn in given._drawn:
        for label, rows in enumerate(drawn):
            assert set(given.pool_labels[rows]) == {label}
            assert len(set(rows)) == len(rows) == min(max(SHOTS), (given.pool_labels == label).sum())
    assert any(list(a[0]) != list(b[0]) for a, b in zip(given._drawn, given._drawn[1:], strict=False))  # draws differ
    again = small(np.random.default_rng(0)), small(np.random.default_rng(0))
    assert [[list(rows) for rows in drawn] for drawn in again[0]._drawn] == [[list(rows) for rows in drawn] for drawn in again[1]._drawn]


def test_equal_cosines_give_chance_level_and_unknown_classes_are_wrong(rng: np.random.Generator):
    given = small(rng)
    examples = len(given.texts()[0][1]) - len(given.texts_tested)
    found = given.shares([np.full((len(given.texts_tested), examples), 0.5)])
    np.testing.assert_allclose(found[:, given.labels >= 0], 1 / 4)
    np.testing.assert_array_equal(found[:, given.labels < 0], 0)
    assert "count as wrong" in given.remarks[1]


def test_a_table_of_texts_and_labels_is_few_shot_classification(tmp_path: Path):
    mine = table(
        tmp_path / "mine.tsv", [(f"{text} {number}", label) for label, texts in CLASSES.items() for text in texts for number in (1, 2)]
    )
    (suite,) = load_suites([mine], SuiteOptions())
    (task,) = suite.sets
    assert isinstance(task, FewShotSet)
    assert sorted((*task.pool, *task.texts_tested)) == sorted(f"{text} {n}" for texts in CLASSES.values() for text in texts for n in (1, 2))
    assert [int((task.pool_labels == label).sum()) for label in (0, 1)] == [4, 3]
    report = evaluate([Lexical(), Lexical(name="other")], [mine], resamples=20)
    rows = [row for group in report.suites[0].groups for row in group.rows]
    assert [row.title for row in rows] == ["mine, 1", "mine, 5", "mine, 20"]
    assert all(figure.deviation is not None and 0 <= figure.value <= 100 for row in rows for figure in row.figures)
    assert rows[0].figures[0].value == rows[0].figures[1].value
    assert rows[2].figures[0].deviation == 0.0  # all examples in every draw
    assert rows[2].figures[0].value == 100.0
    as_table(report)


def test_known_sets_leave_out_of_scope_texts_out(tmp_path: Path):
    (tmp_path / "clinc150").mkdir()
    rows = [(text, label) for label, texts in CLASSES.items() for text in texts]
    table(tmp_path / "clinc150" / "clinc150_train.tsv", [*rows, ("what", "oos")], "text\tintent")
    table(tmp_path / "clinc150" / "clinc150_test.tsv", [("play it", "play"), ("who", "oos"), ("call me", "call")], "text\tintent")
    (suite,) = load_suites(["few_shot_clinc150"], SuiteOptions(data=tmp_path))
    (task,) = suite.sets
    assert isinstance(task, FewShotSet)
    assert task.classes == ("play", "wake")
    assert task.texts_tested == ("play it", "call me")
    assert list(task.labels) == [0, -1]
    (whole,) = load_suites(["few-shot"], SuiteOptions(data=tmp_path))
    assert [title for _, title in whole.absent] == ["SLURP", "SNIPS", "ATIS"]
    once = EncodedOnce(Lexical())
    assert task.outcomes(once)[0].shares.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "x"), ("b", "x")], "has 1 classes, so there is nothing to classify"),
        ([("a", "x"), ("b", "x"), ("c", "y")], "has one text of class 'y'"),
        ([("a", "x"), (" ", "y")], "row 2: column 'text' is blank"),
    ],
)
def test_tables_that_cannot_be_evaluated_are_refused(tmp_path: Path, rows: list[tuple[str, str]], message: str):
    with pytest.raises(UserError, match=message):
        load_suites([table(tmp_path / "mine.tsv", rows)], SuiteOptions())


def test_known_sets_whose_test_texts_have_other_classes_are_refused(tmp_path: Path):
    (tmp_path / "clinc150").mkdir()
    table(tmp_path / "clinc150" / "clinc150_train.tsv", [("play a song", "play"), ("wake me", "wake")], "text\tintent")
    table(tmp_path / "clinc150" / "clinc150_test.tsv", [("call me", "call"), ("why", "oos")], "text\tintent")
    with pytest.raises(UserError, match=r"clinc150_test.tsv' has no text of a class in clinc150/clinc150_train.tsv"):
        load_suites(["few-shot"], SuiteOptions(data=tmp_path))

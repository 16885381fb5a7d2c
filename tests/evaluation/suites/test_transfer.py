from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tain.evaluation.encoding import EncodedOnce
from tain.evaluation.report import evaluate
from tain.evaluation.suites.logistic import LogisticRegressions
from tain.evaluation.suites.registry import load_suites
from tain.evaluation.suites.suite import SuiteOptions
from tain.evaluation.suites.transfer import FOLDS, TransferSet, pair_features, stratified_folds, transfer_sources
from tain.foundation.errors import UserError


def loaded(key: str, data: Path) -> TransferSet:
    ((task,),) = (suite.sets for suite in load_suites([key], SuiteOptions(data=data)))
    assert isinstance(task, TransferSet)
    return task


def table(path: Path, header: str, *rows: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([header, *rows]).replace("|", "\t") + "\n", encoding="utf-8")


@pytest.fixture
def opinions(tmp_path: Path) -> Path:
    """Made-up opinions whose class a bag of words can mostly tell: CR in one file, SST-2 in three, TREC in two, MRPC of pairs."""
    rng = np.random.default_rng(4)
    good, bad, filler = ["fine", "great", "lovely", "superb"], ["poor", "awful", "broken", "dull"], ["phone", "it", "film", "the", "was"]

    def opinion(label: int) -> str:
        told = good if (label if rng.random() < 0.9 else 1 - label) else bad
        return " ".join([*rng.choice(filler, 4), *rng.choice(told, 2)])

    def single(name: str, rows: int, header: str = "label|text", classes: tuple[str, str] = ("0", "1")) -> None:
        labels = [int(label) for label in rng.integers(0, 2, rows)]
        between = "x|" if header.count("|") == 2 else ""
        table(tmp_path / "transfer" / name, header, *(f"{classes[label]}|{between}{opinion(label)}" for label in labels))

    single("cr.tsv", 120)
    for part, rows in (("train", 90), ("dev", 40), ("test", 50)):
        single(f"sst2_{part}.tsv", rows)
    for part, rows in (("train", 80), ("test", 30)):
        single(f"trec_{part}.tsv", rows, "coarse|fine|text", ("HUM", "LOC"))
    for part, rows in (("train", 80), ("test", 30)):
        pairs = []
        for _ in range(rows):
            left, label = opinion(1), int(rng.integers(0, 2))
            pairs.append(f"{label}|{left}|{left if label else opinion(0)}")
        table(tmp_path / "transfer" / f"mrpc_{part}.tsv", "label|sentence1|sentence2", *pairs)
    return tmp_path


def test_folds_partition_the_rows_and_share_each_class_evenly(rng: np.random.Generator):
    labels = rng.choice(3, size=143, p=[0.6, 0.3, 0.1])
    folds = stratified_folds(labels, FOLDS)
    np.testing.assert_array_equal(np.sort(np.concatenate(folds)), np.arange(143))
    assert {len(fold) for fold in folds} == {14, 15}
    for label in range(3):
        counts = [(labels[fold] == label).sum() for fold in folds]
        assert max(counts) - min(counts) <= 1
    np.testing.assert_array_equal(folds[3], stratified_folds(labels, FOLDS)[3])


def naive_nested(features: np.ndarray, labels: np.ndarray, strengths: tuple[float, ...]) -> np.ndarray:
    """SentEval's inner cross-validation spelled out, one scikit-learn fit after the other."""

    def fitted(rows: np.ndarray, strength: float) -> LogisticRegression:
        return LogisticRegression(C=strength, tol=1e-8, max_iter=10_000).fit(features[rows], labels[rows])

    is_right = np.empty(len(labels), dtype=bool)
    for fold in stratified_folds(labels, FOLDS):
        trained = np.setdiff1d(np.arange(len(labels)), fold)
        accuracies = []
        for strength in strengths:
            found = [trained[inner] for inner in stratified_folds(labels[trained], FOLDS)]
            scores = [fitted(np.setdiff1d(trained, inner), strength).score(features[inner], labels[inner]) for inner in found]
            accuracies.append(round(100 * float(np.mean(scores)), 2))
        best = strengths[int(np.argmax(accuracies))]
        is_right[fold] = fitted(trained, best).predict(features[fold]) == labels[fold]
    return is_right


def test_cross_validation_is_that_of_one_fit_after_the_other(opinions: Path, bag: Callable[..., Any]):
    task = loaded("cr", opinions)
    features = bag(dim=12).encode(list(task.left)).astype(np.float64)
    np.testing.assert_array_equal(task.is_right(features), naive_nested(features, task.labels, task.strengths))


def test_a_set_with_a_development_part_chooses_there_and_trains_on_the_training_part_alone(opinions: Path, bag: Callable[..., Any]):
    task = loaded("sst2", opinions)
    features = bag(dim=12).encode(list(task.left)).astype(np.float64)
    assert (len(task.trained), len(task.chosen_on), len(task.tested)) == (90, 40, 50)
    fits = [LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(features[:90], task.labels[:90]) for c in task.strengths]
    best = int(np.argmax([round(100 * fit.score(features[90:130], task.labels[90:130]), 2) for fit in fits]))
    np.testing.assert_array_equal(task.is_right(features), fits[best].predict(features[130:]) == task.labels[130:])


def test_a_set_with_a_test_part_chooses_by_folds_of_the_training_part(opinions: Path, bag: Callable[..., Any]):
    task = loaded("trec", opinions)
    assert (len(task.trained), len(task.chosen_on), len(task.tested)) == (80, 0, 30)
    assert task.classes == ("HUM", "LOC") and task.strengths == tuple(2.0**power for power in range(-1, 6))
    found = task.is_right(bag(dim=48).encode(list(task.left)))
    assert found.shape == (30,) and found.mean() > 0.6


def test_the_order_of_a_pair_does_not_matter(rng: np.random.Generator):
    left, right = rng.normal(size=(2, 5, 3))
    np.testing.assert_array_equal(pair_features(left, right), pair_features(right, left))
    np.testing.assert_allclose(pair_features(left, right), np.hstack([abs(left - right), left * right]))


def test_pairs_are_told_by_their_difference(opinions: Path, bag: Callable[..., Any]):
    task = loaded("mrpc", opinions)
    (outcome,) = task.outcomes(EncodedOnce(bag(dim=64)))
    assert outcome.shares.mean() > 0.9  # equal texts have a difference of 0


def test_a_text_a_classifier_knows_nothing_of_gets_the_commonest_class(opinions: Path, constant: Any):
    task = loaded("cr", opinions)
    (outcome,) = task.outcomes(EncodedOnce(constant))
    assert outcome.shares.mean() == pytest.approx(np.bincount(task.labels).max() / len(task.labels))


def test_the_mean_is_over_what_is_there_and_names_the_rest(opinions: Path, bag: Callable[..., Any]):
    (suite,) = evaluate([bag("a", dim=48), bag("b", dim=4)], ["transfer"], opinions, resamples=50).suites
    (group,) = suite.groups
    assert [row.title for row in group.rows] == ["CR", "SST-2", "TREC", "MRPC"]
    assert group.absent == ("MR", "SUBJ", "MPQA") and group.mean is not None and group.mean.title == "mean of 4"
    assert {row.unit for row in group.rows} == {"accuracy x 100"} and suite.counted == "texts"
    first, second = group.mean.figures
    assert first.value > second.value and second.difference_interval is not None
    assert first.interval.low < first.value < first.interval.high


def test_the_seed_of_the_resamples_never_changes_a_figure(opinions: Path, bag: Callable[..., Any]):
    values = {evaluate([bag()], ["cr"], opinions, resamples=5, seed=s).suites[0].groups[0].rows[0].figures[0].value for s in (1, 2)}
    assert len(values) == 1


def test_rows_without_a_text_are_left_out_and_told(opinions: Path, bag: Callable[..., Any]):
    path = opinions / "transfer" / "cr.tsv"
    path.write_text(path.read_text() + "1\t \n0\t\n")
    assert loaded("cr", opinions).blank == 2
    assert "CR: 2 without text left out" in evaluate([bag()], ["cr"], opinions, resamples=5).suites[0].note


@pytest.mark.parametrize(
    ("header", "rows", "words"),
    [
        ("label|text", [f"1|text {n}" for n in range(20)], "only the class '1', so there is nothing to classify"),
        ("label|text", [f"{n % 2}|text {n}" for n in range(10)], "has 10 rows, too few to hold out one of 10 folds"),
        ("class|text", ["1|a"], "has the columns class, text, but label, text are needed"),
        ("label|text", ["1| ", "0|"], "no row with a text"),
    ],
)
def test_a_set_that_cannot_be_cross_validated_is_refused(tmp_path: Path, header: str, rows: list[str], words: str):
    table(tmp_path / "transfer" / "mr.tsv", header, *rows)
    with pytest.raises(UserError, match=words) as refused:
        load_suites(["mr"], SuiteOptions(data=tmp_path))
    assert "\n" not in str(refused.value)


def test_a_test_part_with_another_class_is_refused(opinions: Path):
    table(opinions / "transfer" / "trec_test.tsv", "coarse|fine|text", "NUM|x|how many")
    with pytest.raises(UserError, match=r"has the class 'NUM', which transfer/trec_train.tsv lacks"):
        load_suites(["trec"], SuiteOptions(data=opinions))


def test_transfer_has_no_dev_split(opinions: Path):
    with pytest.raises(UserError, match="suite transfer has no dev split"):
        load_suites(["transfer"], SuiteOptions(data=opinions, split="dev"))


def test_the_seven_sets_come_in_sentevals_order():
    assert [source.title for source in transfer_sources()] == ["MR", "CR", "SUBJ", "MPQA", "SST-2", "TREC", "MRPC"]


@pytest.mark.real_data
def test_the_shared_sets_have_the_sizes_they_are_known_by(shared_data: Path):
    (suite,) = load_suites(["transfer"], SuiteOptions(data=shared_data))
    sizes = {task.title: len(task.labels) for task in suite.sets if isinstance(task, TransferSet)}
    assert {"MR": 10662, "SUBJ": 10000, "SST-2": 9613, "TREC": 5952}.items() <= sizes.items()
    trec = next(task for task in suite.sets if isinstance(task, TransferSet) and task.key == "trec")
    assert (len(trec.classes), len(trec.tested)) == (6, 500)


@pytest.mark.real_data
def test_a_bag_of_words_tells_questions_apart(shared_data: Path, bag: Callable[..., Any]):
    task = loaded("trec", shared_data)
    kept = np.r_[task.trained[:1500], task.tested]
    features = bag(dim=128).encode([task.left[row] for row in kept])
    fits = LogisticRegressions(features.astype(np.float64), task.labels[kept], classes=6)
    used = np.r_[np.ones(1500, dtype=bool), np.zeros(len(task.tested), dtype=bool)]
    predicted = fits.fit(used[None, :], np.array([1.0])).predicted[0]
    assert (predicted[~used] == task.labels[task.tested]).mean() > 0.5

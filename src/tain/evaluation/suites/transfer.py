"""Transfer suite: logistic regression on frozen vectors for text classification, following SentEval.

Conneau and Kiela 2018 (SentEval), its logistic-regression setting. MR, CR, SUBJ and MPQA are cross-validated, with the penalty
chosen within each training part; SST-2 has a development part; TREC and MRPC choose on their training part.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tain.evaluation.encoding import EncodedOnce
from tain.evaluation.suites.suite import only_test
from tain.evaluation.suites.tasks import Outcomes, Task, TaskSource, distinct, read_columns, task_suite
from tain.foundation.errors import UserError

if TYPE_CHECKING:
    from tain.evaluation.suites.logistic import LogisticRegressions

FOLDS = 10
_FOLDS_SEED = 1111  # as in SentEval: the folds are the same for every model and every --seed
_STRENGTHS = tuple(2.0**power for power in range(-2, 4))  # C; SentEval's values for sets with folds or a development part
_STRENGTHS_OF_SPLITS = tuple(2.0**power for power in range(-1, 6))  # SentEval's values for TREC and MRPC
_REMARK = "logistic regression on frozen vectors"
_ENGLISH = "en"


@dataclass(frozen=True, kw_only=True)
class TransferSet:
    """One classification set.

    Attributes:
        key: Name on the command line, such as ``mr``.
        title: Name in tables.
        left: Texts of all parts, concatenated.
        right: Second text of each pair; empty for single texts.
        labels: Class of each text, int (texts,), from 0.
        classes: Class names.
        trained: Training rows, int; all rows of a set without parts.
        chosen_on: Rows for choosing the penalty; empty if that is done by folds.
        tested: Test rows; empty for a set without parts, where every row is tested when its fold is held out.
        strengths: Values of C to choose from, strongest penalty first.
        blank: Number of rows without text that were dropped (CR has four).
    """

    key: str
    title: str
    left: tuple[str, ...]
    right: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    trained: np.ndarray
    chosen_on: np.ndarray
    tested: np.ndarray
    strengths: tuple[float, ...]
    blank: int = 0

    @property
    def remarks(self) -> tuple[str, ...]:
        return (_REMARK, f"{self.title}: {self.blank} without text left out") if self.blank else (_REMARK,)

    def texts(self) -> list[tuple[str | None, list[str]]]:
        """Every distinct text, in English."""
        return [(_ENGLISH, distinct((*self.left, *self.right)))]

    def outcomes(self, encoder: EncodedOnce) -> list[Outcomes]:
        """Whether each test text was classified correctly."""
        left = encoder.encode(self.left, language=_ENGLISH)
        features = pair_features(left, encoder.encode(self.right, language=_ENGLISH)) if self.right else left
        return [Outcomes(key=self.key, title=self.title, group="", shares=self.is_right(features).astype(np.float64))]

    def is_right(self, features: np.ndarray) -> np.ndarray:
        """Classify ``features`` (texts, dim): True for each correctly classified test text, in order."""
        from tain.evaluation.suites.logistic import LogisticRegressions

        model = LogisticRegressions(np.asarray(features, dtype=np.float64), self.labels, classes=len(self.classes))
        if len(self.tested) == 0:
            predicted = np.empty_like(self.labels)
            for fold in stratified_folds(self.labels, FOLDS):
                kept = np.setdiff1d(self.trained, fold, assume_unique=True)
                predicted[fold] = self._predict(model, kept, fold)
            return predicted == self.labels
        return self._predict(model, self.trained, self.tested) == self.labels[self.tested]

    def _predict(self, model: "LogisticRegressions", trained: np.ndarray, tested: np.ndarray) -> np.ndarray:
        is_trained = np.isin(np.arange(len(self.labels)), trained)
        chosen = self._choose(model, trained, is_trained)
        return model.fit(is_trained[None, :], np.array([chosen])).predicted[0, tested]

    def _choose(self, model: "LogisticRegressions", trained: np.ndarray, is_trained: np.ndarray) -> float:
        """C with the best held-out accuracy; the strongest penalty wins ties."""
        held_out = [self.chosen_on] if len(self.chosen_on) else [trained[fold] for fold in stratified_folds(self.labels[trained], FOLDS)]
        is_used = np.repeat([is_trained & ~np.isin(np.arange(len(self.labels)), rows) for rows in held_out], len(self.strengths), axis=0)
        predicted = model.fit(is_used, np.tile(self.strengths, len(held_out))).predicted.reshape(len(held_out), len(self.strengths), -1)
        accuracies = [(found[:, rows] == self.labels[rows]).mean(axis=1) for found, rows in zip(predicted, held_out, strict=True)]
        return self.strengths[int(np.argmax(np.round(100 * np.mean(accuracies, axis=0), 2)))]


def pair_features(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Features |u - v| and u * v of vector pairs, concatenated (pairs, 2 * dim); symmetric in the two vectors (pairs, dim)."""
    return np.concatenate([np.abs(left - right), left * right], axis=1)


def stratified_folds(labels: np.ndarray, folds: int) -> list[np.ndarray]:
    """Split the rows of ``labels`` (n,) into ``folds`` stratified parts: sorted row numbers, deterministic."""
    rng = np.random.default_rng(_FOLDS_SEED)
    dealt = np.concatenate([rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)])
    # dealt like cards, class by class, so that sizes differ by at most one, in total and per class
    return [np.sort(dealt[fold::folds]) for fold in range(folds)]


def transfer_sources() -> list[TaskSource]:
    """The seven sets in SentEval's order."""
    return [
        _folded("mr", "MR"),
        _folded("cr", "CR"),
        _folded("subj", "SUBJ"),
        _folded("mpqa", "MPQA"),
        _split("sst2", "SST-2", parts=("train", "dev", "test"), columns=("label", "text")),
        _split("trec", "TREC", parts=("train", "test"), columns=("coarse", "text")),
        _split("mrpc", "MRPC", parts=("train", "test"), columns=("label", "sentence1", "sentence2")),
    ]


def _folded(key: str, title: str) -> TaskSource:
    return _source(key, title, files=(f"transfer/{key}.tsv",), columns=("label", "text"))


def _split(key: str, title: str, *, parts: tuple[str, ...], columns: tuple[str, ...]) -> TaskSource:
    return _source(key, title, files=tuple(f"transfer/{key}_{part}.tsv" for part in parts), columns=columns)


def _source(key: str, title: str, *, files: tuple[str, ...], columns: tuple[str, ...]) -> TaskSource:
    read: Callable[[Path], Task] = partial(_read, key=key, title=title, files=files, columns=columns)
    return TaskSource(key=key, title=title, group="", files=files, read=read)


def _read(data: Path, *, key: str, title: str, files: tuple[str, ...], columns: tuple[str, ...]) -> TransferSet:
    given = [read_columns(data / file, columns, keep_blank=True) for file in files]
    parts = [[row for row in part if all(cell.strip() for cell in row[1:])] for part in given]
    for file, rows in zip(files, parts, strict=True):
        _refuse_too_little(data / file, rows, is_trained=file == files[0], has_folds=len(files) < 3)
    rows = [row for part in parts for row in part]
    classes = tuple(sorted({row[0] for row in parts[0]}))
    unknown = sorted({row[0] for row in rows} - set(classes))
    if unknown:
        raise UserError(f"{str(data / files[-1])!r} has the class {unknown[0]!r}, which {files[0]} lacks: give files of the same set")
    indices = list(_row_numbers(parts))
    none = np.empty(0, dtype=np.int64)
    return TransferSet(
        key=key,
        title=title,
        left=tuple(row[1] for row in rows),
        right=tuple(row[2] for row in rows) if len(columns) > 2 else (),
        labels=np.array([classes.index(row[0]) for row in rows], dtype=np.int64),
        classes=classes,
        trained=indices[0],
        chosen_on=indices[1] if len(indices) == 3 else none,
        tested=indices[-1] if len(indices) > 1 else none,
        strengths=_STRENGTHS_OF_SPLITS if len(indices) == 2 else _STRENGTHS,
        blank=sum(map(len, given)) - len(rows),
    )


def _refuse_too_little(file: Path, rows: list[tuple[str, ...]], *, is_trained: bool, has_folds: bool) -> None:
    if not rows:
        raise UserError(f"{str(file)!r} has no row with a text: give a table with texts")
    if is_trained and len({row[0] for row in rows}) < 2:
        raise UserError(f"{str(file)!r} has only the class {rows[0][0]!r}, so there is nothing to classify: give at least 2 classes")
    if is_trained and has_folds and len(rows) <= FOLDS:
        raise UserError(f"{str(file)!r} has {len(rows)} rows, too few to hold out one of {FOLDS} folds: give more than {FOLDS}")


def _row_numbers(parts: list[list[tuple[str, ...]]]) -> Iterator[np.ndarray]:
    start = 0
    for part in parts:
        yield np.arange(start, start + len(part))
        start += len(part)


TRANSFER = task_suite("transfer", "Transfer", only_test(transfer_sources), counted="texts")

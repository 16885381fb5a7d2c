"""Few-shot suite: classify texts by the nearest centroid of 1, 5 or 20 labelled examples per class, without training.

A text gets the class with the highest mean cosine to its examples, that is, the nearest class centroid of unit vectors (the rule of
prototypical networks, Snell et al. 2017, with cosines and frozen vectors). Examples are drawn ten times; the draws are the same for every
model, and the examples of a smaller number are among those of a larger one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from tain.evaluation.encoding import EncodedOnce
from tain.evaluation.suites.suite import LoadedSuite, Split
from tain.evaluation.suites.tasks import Outcomes, TaskSource, distinct, read_columns, task_suite
from tain.foundation.errors import UserError

SHOTS = (1, 5, 20)
DRAWS = 10
_DRAWS_SEED = 1111  # the draws are the same for every model and every --seed
_SAME_COSINE = 1e-6  # tolerance for ties between means of float32 cosines
_ENGLISH = "en"
_OUT_OF_SCOPE = "oos"  # CLINC150's texts without an intent; they have no centroid
LABEL_COLUMNS = ("label", "intent")


@dataclass(frozen=True, kw_only=True)
class FewShotSet:
    """Texts with classes: a pool from which examples are drawn, and test texts.

    Attributes:
        key: Name on the command line, such as ``few_shot_clinc150``.
        title: Name in tables.
        pool: Texts to draw examples from.
        pool_labels: Class of each, int (pool,), from 0.
        texts_tested: Test texts.
        labels: Class of each, int (tested,); -1 for a class that the pool lacks, which counts as wrong.
        classes: Class names.
        language: Language of the texts; ``None`` if unknown.
    """

    key: str
    title: str
    pool: tuple[str, ...]
    pool_labels: np.ndarray
    texts_tested: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    language: str | None = None

    @property
    def remarks(self) -> tuple[str, ...]:
        common = f"nearest centroid of unit vectors; ± is the deviation over {DRAWS} draws of examples"
        sizes = np.bincount(self.pool_labels, minlength=len(self.classes))
        few, unknown = int((sizes < max(SHOTS)).sum()), int((self.labels < 0).sum())
        own = f"{self.title}: {len(self.classes)} classes"
        own += f", {few} of them with fewer than {max(SHOTS)} examples" if few else ""
        own += f", {unknown} texts of classes without examples count as wrong" if unknown else ""
        return (common, own)

    def texts(self) -> list[tuple[str | None, list[str]]]:
        """Test texts and drawn examples, with their language."""
        return [(self.language, distinct((*self.texts_tested, *self._examples)))]

    def outcomes(self, encoder: EncodedOnce) -> list[Outcomes]:
        """Share of the draws in which each test text gets its class, for every number of examples."""
        found = self.shares(encoder.cosine_blocks(self.texts_tested, self._examples, language=self.language))
        return [
            Outcomes(
                key=f"{self.key}_{shots}",
                title=f"{self.title}, {shots}",
                group=f"{shots} {'example' if shots == 1 else 'examples'} per class",
                shares=shares.mean(axis=1),
                deviation=float(shares.mean(axis=0).std(ddof=1)),
            )
            for shots, shares in zip(SHOTS, found, strict=True)
        ]

    def shares(self, cosines: Iterable[np.ndarray]) -> np.ndarray:
        """Classify the test texts.

        Args:
            cosines: Blocks (texts, examples) that cover all test texts in order; examples as in ``texts``, distinct and in drawn order.

        Returns:
            Float64 (shots, tested, draws): 1 for the right class, 0 for a wrong one; 1 / n if n classes are tied for the first place.
        """
        row_of = {text: row for row, text in enumerate(self._examples)}
        picked = [  # per number of examples and draw: rows of the examples, and where each class begins
            [self._columns(drawn, shots, row_of) for drawn in self._drawn] for shots in SHOTS
        ]
        found = np.zeros((len(SHOTS), len(self.texts_tested), DRAWS))
        done = 0
        for block in cosines:
            gold = self.labels[done : done + len(block)]
            for number, draws in enumerate(picked):
                for draw, (rows, begins, sizes) in enumerate(draws):
                    means = np.add.reduceat(block[:, rows].astype(np.float64), begins, axis=1) / sizes
                    found[number, done : done + len(block), draw] = _right(means, gold)
            done += len(block)
        return found

    def _columns(self, drawn: list[np.ndarray], shots: int, row_of: dict[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        kept = [rows[:shots] for rows in drawn]
        sizes = np.array([len(rows) for rows in kept])
        rows = np.array([row_of[self.pool[row]] for row in np.concatenate(kept)])
        return rows, np.cumsum(sizes) - sizes, sizes

    @cached_property
    def _drawn(self) -> list[list[np.ndarray]]:
        """Rows of the pool drawn for each class, in order, for each draw."""
        rng = np.random.default_rng(_DRAWS_SEED)
        by_class = [np.flatnonzero(self.pool_labels == label) for label in range(len(self.classes))]
        return [[rng.permutation(rows)[: max(SHOTS)] for rows in by_class] for _ in range(DRAWS)]

    @cached_property
    def _examples(self) -> list[str]:
        return distinct(self.pool[row] for drawn in self._drawn for rows in drawn for row in rows)


def few_shot_sources(split: Split = "test") -> list[TaskSource]:
    """The intent sets; SLURP draws its examples from NLU-home, which has the same intents."""
    part = {"test": ("test", "test", "test"), "dev": ("val", "valid", "devel")}[split]
    suffix = "" if split == "test" else "_dev"
    return [
        _source(f"few_shot_clinc150{suffix}", "CLINC150", "clinc150/clinc150_train.tsv", f"clinc150/clinc150_{part[0]}.tsv"),
        _source(f"few_shot_slurp{suffix}", "SLURP", "nlu_home/nlu_home.tsv", f"slurp/slurp_{part[2]}.tsv"),
        _source(f"few_shot_snips{suffix}", "SNIPS", "snips/snips_train.tsv", f"snips/snips_{part[1]}.tsv"),
        _source(f"few_shot_atis{suffix}", "ATIS", "atis/atis_train.tsv", f"atis/atis_{part[1]}.tsv"),
    ]


def label_column(header: Sequence[str]) -> str | None:
    """The column of classes of a table of labelled texts; ``None`` if it is not such a table."""
    if "text" not in header or "score" in header:
        return None
    return next((column for column in LABEL_COLUMNS if column in header), None)


def is_labelled(source: str) -> bool:
    """Whether a user table holds labelled texts, rather than scored pairs."""
    from tain.text.readers import read_rows

    return label_column(read_rows(source)[0]) is not None


def own_few_shot_suite(sources: Sequence[str], *, language: str | None) -> LoadedSuite:
    """User tables of labelled texts as a suite; see ``own_few_shot``."""
    return LoadedSuite(row=_OWN, sets=tuple(own_few_shot(source, language=language) for source in sources))


def own_few_shot(source: str, *, language: str | None = None) -> FewShotSet:
    """Read a user table with the columns ``text`` and ``label`` (or ``intent``): half of each class is drawn from, the rest is tested.

    Raises:
        UserError: The table has fewer than two classes, or a class with a single text.
    """
    from tain.text.readers import read_rows

    column = label_column(read_rows(source)[0])
    if column is None:
        raise UserError(f"{source!r} is no table of labelled texts: give one with the columns text and label")
    rows = read_columns(source, ("text", column))
    classes = _classes(source, rows)
    labels = np.array([classes.index(label) for _, label in rows])
    rng = np.random.default_rng(_DRAWS_SEED)
    is_pool = np.zeros(len(rows), dtype=bool)
    for label in range(len(classes)):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < 2:
            raise UserError(
                f"{source!r} has one text of class {classes[label]!r}, but an example and a test text are needed: give 2 or more"
            )
        is_pool[members[: len(members) // 2]] = True
    texts = np.array([text for text, _ in rows], dtype=object)
    return FewShotSet(
        key=source,
        title=source.removeprefix("hf:") if source.startswith("hf:") else Path(source).name.split(".")[0],
        pool=tuple(texts[is_pool]),
        pool_labels=labels[is_pool],
        texts_tested=tuple(texts[~is_pool]),
        labels=labels[~is_pool],
        classes=classes,
        language=language,
    )


def _source(key: str, title: str, pool: str, tested: str) -> TaskSource:
    return TaskSource(
        key=key, title=title, group="", files=(pool, tested), read=partial(_read, key=key, title=title, pool=pool, tested=tested)
    )


def _read(data: Path, *, key: str, title: str, pool: str, tested: str) -> FewShotSet:
    columns = ("text", "intent")
    given = [row for row in read_columns(data / pool, columns) if row[1] != _OUT_OF_SCOPE]
    asked = [row for row in read_columns(data / tested, columns) if row[1] != _OUT_OF_SCOPE]
    classes = _classes(str(data / pool), given)
    number = {name: index for index, name in enumerate(classes)}
    if not any(label in number for _, label in asked):
        raise UserError(
            f"{str(data / tested)!r} has no text of a class in {pool}, so every model would be wrong on all: give files of the same set"
        )
    return FewShotSet(
        key=key,
        title=title,
        pool=tuple(text for text, _ in given),
        pool_labels=np.array([number[label] for _, label in given]),
        texts_tested=tuple(text for text, _ in asked),
        labels=np.array([number.get(label, -1) for _, label in asked]),
        classes=classes,
        language=_ENGLISH,
    )


def _classes(name: str, rows: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    classes = tuple(sorted({label for _, label in rows}))
    if len(classes) < 2:
        raise UserError(f"{name!r} has {len(classes)} classes, so there is nothing to classify: give at least 2")
    return classes


def _right(means: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Chance that the gold class comes first in each row of ``means`` (texts, classes), with ties in random order."""
    is_first = means >= means.max(axis=1, keepdims=True) - _SAME_COSINE
    has_gold = gold >= 0
    hit = is_first[np.arange(len(gold)), np.maximum(gold, 0)] & has_gold
    return hit / is_first.sum(axis=1)


FEW_SHOT = task_suite("few-shot", "Few-shot classification", lambda data, split: few_shot_sources(split), counted="texts")
_OWN = task_suite("own few-shot", "Own sets, few-shot classification", lambda data, split: (), counted="texts")

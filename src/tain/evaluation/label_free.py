"""The label-free report: how an encoder's vectors lie, and whether the two halves of a text find each other.

Alignment and uniformity: Wang and Isola 2020. Isotropy: the definition of Mu and Viswanath 2018, which Liu et al. 2021
(Mirror-BERT) print in section 6, though the figures of their table cannot come from it (``isotropy_as_published``). Mean-vector
norm: Liu et al. 2021. Self-retrieval is ours. Nothing here needs torch.

Every figure is written for texts that occur a number of times (``counts``), 1 each for the figure itself and a resample's
counts for its bootstrap interval: one formula serves both. Pairs of a text with itself never count.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from tain.evaluation.encoding import EncodedOnce
from tain.evaluation.metrics import GoldRanks, gold_ranks, resample_counts, unit_rows
from tain.foundation.errors import ShapeError, UserError
from tain.models.text_encoder import TextEncoder

Level = Literal["word", "phrase", "sentence"]

RETRIEVAL = "self-retrieval"
# field of LabelFreeReport: title in tables, model cards and pages, and which way is better
TITLES: dict[str, tuple[str, Literal["higher", "lower"]]] = {
    "self_retrieval_mrr": (f"{RETRIEVAL} MRR", "higher"),
    "self_retrieval_recall_at_1": (f"{RETRIEVAL} R@1", "higher"),
    "alignment": ("alignment", "lower"),
    "uniformity": ("uniformity", "lower"),
    "isotropy": ("isotropy", "higher"),
    "mean_vector_norm": ("mean-vector norm", "lower"),
    "mean_cosine": ("mean cosine", "lower"),
}

_ROWS_AT_ONCE = 1024  # of a table texts x texts
_SAME_COSINE = 1e-9  # rounding of the sums; what rounding in the encoder does is blind to which half is right
_WORSE_BY = 0.01  # smaller changes of a figure are noise on a few hundred texts
_FEWEST_WORDS = 4
_FEWEST_CHARS = 6


@dataclass(frozen=True, kw_only=True)
class LabelFreeReport:
    """What can be said of an encoder on texts without labels. A figure that has no answer is ``nan``.

    Attributes:
        level: What a text is; single words are halved by characters, all else by words.
        texts: How many distinct texts were measured.
        repeated: How many texts were left out because an equal one was there before.
        too_short: How many of ``texts`` cannot be halved; they count in all figures but alignment by halves and self-retrieval.
        views: What alignment takes for two views of a text: its ``halves``, or the ``twins`` that were given.
        self_retrieval_recall_at_1: Share of halves whose other half is the nearest of all other halves. Higher is better.
        self_retrieval_mrr: Mean of 1 / place of the other half. Higher is better.
        alignment: Mean squared distance of two views' unit vectors, 0 to 4. Lower is better.
        uniformity: Log of the mean of exp(-2 * squared distance) over pairs of unit vectors, -8 to 0. Lower is better.
        isotropy: IS, 0 (a narrow cone) to 1 (no direction preferred), of the raw vectors: rescaling them changes it.
        mean_vector_norm: MVN, the length of the mean of the raw vectors. Rescaling them changes it.
        mean_length: Mean length of the raw vectors, in which ``mean_vector_norm`` is to be read.
        mean_cosine: Mean cosine of two different texts. 0 is ideal, 1 means that all vectors point one way.
    """

    level: Level
    texts: int
    repeated: int
    too_short: int
    views: Literal["halves", "twins"]
    self_retrieval_recall_at_1: float
    self_retrieval_mrr: float
    alignment: float
    uniformity: float
    isotropy: float
    mean_vector_norm: float
    mean_length: float
    mean_cosine: float

    @property
    def mean_vector_share(self) -> float:
        """Length of the mean vector over the mean length, 0 to 1: the part of every vector that says nothing of its text."""
        return self.mean_vector_norm / self.mean_length if self.mean_length else math.nan

    def to_dict(self) -> dict[str, object]:
        """Give the fields for JSON, ``None`` where there is no answer."""
        return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in asdict(self).items()}

    def is_worse_than(self, other: "LabelFreeReport") -> list[str]:
        """Name in words what is worse here than in ``other``, a report on the same texts; an empty list means nothing.

        Judged are self-retrieval, the sum of alignment and uniformity, and the mean vector's share of the length. Not judged:
        alignment alone (vectors that all point one way have the best one), and IS and MVN, which change when vectors are
        merely rescaled.

        Raises:
            ValueError: The reports are on different kinds or numbers of texts.
        """
        if (self.level, self.texts, self.views) != (other.level, other.texts, other.views):
            raise ValueError(
                f"two reports compare on the same texts only: {self.texts} by {self.level}, {other.texts} by {other.level}"
                f" (views {self.views}, {other.views})"
            )
        reasons = []
        if other.self_retrieval_mrr - self.self_retrieval_mrr > _WORSE_BY:
            reasons.append(
                "the two halves of a text find each other less well"
                f" (self-retrieval MRR {self.self_retrieval_mrr:.3f} instead of {other.self_retrieval_mrr:.3f})"
            )
        if _alignment_and_uniformity(self) - _alignment_and_uniformity(other) > _WORSE_BY:
            reasons.append(
                "views of one text and different texts are told apart less well (alignment + uniformity"
                f" {_alignment_and_uniformity(self):.3f} instead of {_alignment_and_uniformity(other):.3f})"
            )
        if self.mean_vector_share - other.mean_vector_share > _WORSE_BY:
            reasons.append(
                "vectors crowd more in one direction (the mean vector has"
                f" {self.mean_vector_share:.0%} of their length instead of {other.mean_vector_share:.0%})"
            )
        return reasons


def label_free_score(report: LabelFreeReport) -> float:
    """One number to choose among seeds by, higher is better: self-retrieval MRR - 0.01 * (alignment + uniformity).

    Retrieval leads: over many vector spaces it ranks like labelled similarity does, and better than the rest of the report
    (docs/evaluation.md has the numbers). Where it is level, alignment plus uniformity decides: a whole unit of it is worth 0.01 of
    MRR. A part without an answer counts 0, as it does for every seed on the same texts.
    """
    parts = (report.self_retrieval_mrr, -0.01 * _alignment_and_uniformity(report))
    return math.fsum(part for part in parts if not math.isnan(part))


def _alignment_and_uniformity(report: LabelFreeReport) -> float:
    return report.alignment + report.uniformity


def label_free_report(
    encoder: TextEncoder,
    texts: Iterable[str],
    *,
    twins: Iterable[str] | None = None,
    level: Level = "sentence",
    max_texts: int = 2000,
    rng: np.random.Generator,
) -> LabelFreeReport:
    """Measure an encoder on texts without labels.

    Args:
        encoder: What is measured.
        texts: Texts that the encoder was not tuned on; equal texts (by ``same_text_key``) count once.
        twins: For each text another of the same meaning, as the two views of alignment. Without it the two halves of a text are.
        level: What a text is. ``word`` halves by characters (a word of under 6 is too short, and so it goes for scripts that
            write no spaces: use ``word`` for them), all else by words (a text of under 4 is too short).
        max_texts: Of more texts, so many are drawn by ``rng``. All pairs are compared, so time grows with the square.
        rng: Draws the texts. To compare two encoders give each call a new generator from the same seed.

    Raises:
        UserError: Fewer than two distinct texts, or vectors with nan or infinity.
        ShapeError: ``twins`` is not as long as ``texts``.
    """
    sample = _sample(texts, twins, level=level, max_texts=max_texts, rng=rng)
    views = _encode(EncodedOnce(encoder), sample)
    return _report(sample, views)


def label_free_bootstrap(
    encoder: TextEncoder,
    texts: Iterable[str],
    *,
    twins: Iterable[str] | None = None,
    level: Level = "sentence",
    max_texts: int = 2000,
    resamples: int = 1000,
    rng: np.random.Generator,
) -> tuple[LabelFreeReport, dict[str, np.ndarray]]:
    """Measure an encoder as ``label_free_report`` does, and again on resampled texts.

    Candidates of self-retrieval and directions of isotropy stay those of the whole sample.

    Returns:
        The report, and for each figure's name its values (resamples,). Equal ``rng`` gives paired resamples.
    """
    sample = _sample(texts, twins, level=level, max_texts=max_texts, rng=rng)
    views = _encode(EncodedOnce(encoder), sample)
    blocks = [_figures(views, counts) for counts in resample_counts(len(sample.texts), resamples=resamples, rng=rng)]
    return _report(sample, views), {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def halves(text: str, *, level: Level) -> tuple[str, str] | None:
    """Cut a text into two that share nothing: the first half of its words and the rest (of its characters for ``word``).

    The middle word of an odd number goes to the second half. First and second half, not every other word: a reader meets them
    so, and word order within each stays whole.

    Returns:
        ``None`` where the text has fewer than 4 words (6 characters for ``word``).
    """
    parts, glue, fewest = (list(text.strip()), "", _FEWEST_CHARS) if level == "word" else (text.split(), " ", _FEWEST_WORDS)
    if len(parts) < fewest:
        return None
    middle = len(parts) // 2
    return glue.join(parts[:middle]), glue.join(parts[middle:])


# ---- the figures by themselves


def alignment(left: np.ndarray, right: np.ndarray) -> float:
    """Mean squared distance of row i of ``left`` (n, dim) and of ``right``, each row brought to length 1; 0 to 4, lower is better.

    Wang and Isola 2020, with their exponent 2.

    Raises:
        ShapeError: The two are not tables of the same shape.
    """
    if left.ndim != 2 or left.shape != right.shape:
        raise ShapeError(f"alignment needs two tables of one shape, got {left.shape} and {right.shape}")
    return float(_alignment(unit_rows(left), unit_rows(right), np.ones((1, len(left))))[0])


def uniformity(vectors: np.ndarray) -> float:
    """Log of the mean over pairs of exp(-2 * squared distance), rows of ``vectors`` (n, dim) brought to length 1; lower is better.

    Wang and Isola 2020, with their t = 2. Each pair counts once and no row pairs with itself.

    Raises:
        ShapeError: Fewer than two vectors.
    """
    _refuse_fewer_than_two(vectors)
    return float(_uniformity(unit_rows(vectors), np.ones((1, len(vectors))))[0])


def isotropy(vectors: np.ndarray) -> float:
    """IS(V) = min_c Z(c) / max_c Z(c) with Z(c) = sum_v exp(c.v), of the raw ``vectors`` (n, dim); 0 to 1, higher is better.

    c runs over the eigenvectors of V^T V, as in Mu and Viswanath 2018. An eigenvector's sign means nothing, but exp(c.v) depends
    on it: both signs are in the set, so that the result does not hang on the linear algebra library. Sums are taken in log space.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    return float(_isotropy(vectors, _directions(vectors), np.ones((1, len(vectors))))[0])


def isotropy_as_published(vectors: np.ndarray) -> float:
    """The formula of ``isotropy`` over the rows of the matrix whose columns are the eigenvectors; comparable with Mirror-BERT's table.

    Inferred, not documented: Liu et al. 2021 print the definition over eigenvectors, by which a mean vector of length m along one
    of them bounds IS by about exp(-m). Their table has 0.043 at m = 13.8. Rows give figures near the table's, eigenvectors do not.
    A row is an arbitrary direction, on which the mean vector has a component near m / sqrt(dim): the figure follows the mean-vector
    norm and finds no narrow cone. Only one sign of each row counts, so it depends on the linear algebra library in its last digits
    and, for few dimensions, in more than those. Use ``isotropy`` for everything else.

    Args:
        vectors: Raw vectors (n, dim); rescaling them changes the figure.

    Returns:
        0 to 1, higher is better.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    directions = np.linalg.eigh(vectors.T @ vectors)[1]  # whole, for its rows to be (dim,)
    logs = _counted_logsumexp(vectors @ directions.T, np.ones((1, len(vectors))))
    return float(np.exp(logs.min() - logs.max()))


def mean_vector_norm(vectors: np.ndarray) -> float:
    """MVN: the length of the mean of ``vectors`` (n, dim), in their own unit."""
    return float(np.linalg.norm(np.asarray(vectors, dtype=np.float64).mean(axis=0)))


def mean_cosine(vectors: np.ndarray) -> float:
    """Mean cosine over pairs of different rows of ``vectors`` (n, dim).

    Raises:
        ShapeError: Fewer than two vectors.
    """
    _refuse_fewer_than_two(vectors)
    return float(_mean_cosine(unit_rows(vectors), np.ones((1, len(vectors))))[0])


def self_retrieval(first: np.ndarray, second: np.ndarray) -> GoldRanks:
    """Where row i of ``second`` (n, dim) stands among all its rows for row i of ``first``, and then the other way round.

    Returns:
        Places (2 * n,): first to second, then second to first; by cosine, differences below 1e-9 are ties.
    """
    first, second = unit_rows(first), unit_rows(second)
    found = [GoldRanks(better=np.empty(0, dtype=int), tied=np.empty(0, dtype=int))]  # all there is where no text was halved
    for queries, candidates in ((first, second), (second, first)):
        for start in range(0, len(queries), _ROWS_AT_ONCE):
            rows = queries[start : start + _ROWS_AT_ONCE]
            found.append(gold_ranks(rows @ candidates.T, np.arange(start, start + len(rows)), tolerance=_SAME_COSINE))
    return GoldRanks(better=np.concatenate([p.better for p in found]), tied=np.concatenate([p.tied for p in found]))


def _refuse_fewer_than_two(vectors: np.ndarray) -> None:
    if vectors.ndim != 2 or len(vectors) < 2:
        raise ShapeError(f"a figure over pairs needs at least 2 vectors, got {vectors.shape}")


# ---- the same for counted texts: ``counts`` is (resamples, n), results are (resamples,)


def _counted_mean(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    total = counts.sum(axis=1)
    return np.divide(counts @ values, total, out=np.full(len(counts), np.nan), where=total > 0)


def _counted_pairs(counts: np.ndarray) -> np.ndarray:
    return counts.sum(axis=1) ** 2 - np.square(counts).sum(axis=1)


def _alignment(left: np.ndarray, right: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return _counted_mean(np.square(left - right).sum(axis=1), counts)


def _uniformity(units: np.ndarray, counts: np.ndarray) -> np.ndarray:
    squares = np.square(units).sum(axis=1)  # 1, or 0 for a vector of zeros
    total = np.zeros(len(counts))
    for start in range(0, len(units), _ROWS_AT_ONCE):
        rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(units)))
        distances = squares[rows, None] + squares[None, :] - 2 * units[rows] @ units.T
        closeness = np.exp(-2 * np.maximum(distances, 0))
        closeness[rows - start, rows] = 0.0
        total += np.einsum("br,br->b", counts[:, rows], counts @ closeness.T)
    pairs = _counted_pairs(counts)
    return np.log(np.divide(total, pairs, out=np.full(len(counts), np.nan), where=pairs > 0))


def _directions(vectors: np.ndarray) -> np.ndarray:
    """The eigenvectors of V^T V as columns (dim, dim); of fewer vectors than dimensions those that a vector has a part in, and zeros.

    The column of zeros stands for all other eigenvectors: every vector's product with them is 0.
    """
    count, dim = vectors.shape
    if count >= dim:
        return np.linalg.eigh(vectors.T @ vectors)[1]
    squares, sides = np.linalg.eigh(vectors @ vectors.T)  # (n, n): the same eigenvalues, in far less time
    kept = squares > 1e-12 * squares.max(initial=0.0)
    directions = vectors.T @ sides[:, kept] / np.sqrt(squares[kept])
    return np.concatenate([directions, np.zeros((dim, 1))], axis=1)


def _isotropy(vectors: np.ndarray, directions: np.ndarray, counts: np.ndarray) -> np.ndarray:
    along = vectors @ directions  # (n, dim)
    logs = np.concatenate([_counted_logsumexp(along, counts), _counted_logsumexp(-along, counts)], axis=1)
    return np.exp(logs.min(axis=1) - logs.max(axis=1))


def _counted_logsumexp(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    top = values.max(axis=0)
    with np.errstate(divide="ignore"):  # a resample without the few large values of a direction: log 0, isotropy 0
        return top + np.log(counts @ np.exp(values - top))


def _mean_cosine(units: np.ndarray, counts: np.ndarray) -> np.ndarray:
    together = np.square(counts @ units).sum(axis=1) - np.square(counts) @ np.square(units).sum(axis=1)
    pairs = _counted_pairs(counts)
    return np.divide(together, pairs, out=np.full(len(counts), np.nan), where=pairs > 0)


# ---- putting a report together


@dataclass(frozen=True, kw_only=True)
class _Sample:
    level: Level
    texts: list[str]
    twins: list[str] | None
    repeated: int
    halves: list[tuple[str, str]]
    is_halved: np.ndarray  # (texts,)


@dataclass(frozen=True, kw_only=True)
class _Views:
    vectors: np.ndarray  # raw, float64 (texts, dim)
    directions: np.ndarray  # (dim, dim)
    twins: np.ndarray | None  # (texts, dim)
    first: np.ndarray  # (halved, dim)
    second: np.ndarray
    is_halved: np.ndarray  # (texts,)
    recall_at_1: np.ndarray  # (halved,)
    reciprocal_rank: np.ndarray


def _sample(texts: Iterable[str], twins: Iterable[str] | None, *, level: Level, max_texts: int, rng: np.random.Generator) -> _Sample:
    from tain.text.cleaning import same_text_key
    from tain.text.collections import list_texts

    texts = list_texts(texts)
    twins = None if twins is None else list_texts(twins, what="twin")
    if twins is not None and len(twins) != len(texts):
        raise ShapeError(f"each text needs one twin, got {len(texts)} texts and {len(twins)} twins")
    first_of_key: dict[str, int] = {}
    for row, text in enumerate(texts):
        first_of_key.setdefault(same_text_key(text), row)
    rows = list(first_of_key.values())
    if len(rows) < 2:
        raise UserError(f"{len(rows)} distinct texts for the label-free report, but texts are compared with each other: give at least 2")
    if len(rows) > max_texts:
        rows = [rows[index] for index in np.sort(rng.choice(len(rows), size=max_texts, replace=False))]
    cut = [halves(texts[row], level=level) for row in rows]
    return _Sample(
        level=level,
        texts=[texts[row] for row in rows],
        twins=None if twins is None else [twins[row] for row in rows],
        repeated=len(texts) - len(first_of_key),
        halves=[pair for pair in cut if pair is not None],
        is_halved=np.array([pair is not None for pair in cut]),
    )


def _encode(encoder: EncodedOnce, sample: _Sample) -> _Views:
    first, second = ([pair[side] for pair in sample.halves] for side in (0, 1))
    encoder.encode([*sample.texts, *(sample.twins or []), *first, *second])  # all at once, so that batches are full
    vectors = encoder.encode(sample.texts).astype(np.float64)
    first_vectors, second_vectors = (encoder.encode(side).astype(np.float64) for side in (first, second))
    indices = self_retrieval(first_vectors, second_vectors)
    both_ways = (2, len(first))
    return _Views(
        vectors=vectors,
        directions=_directions(vectors),
        twins=None if sample.twins is None else encoder.encode(sample.twins),
        first=first_vectors,
        second=second_vectors,
        is_halved=sample.is_halved,
        recall_at_1=indices.recall_at(1).reshape(both_ways).mean(axis=0),
        reciprocal_rank=indices.reciprocal_rank().reshape(both_ways).mean(axis=0),
    )


def _figures(views: _Views, counts: np.ndarray) -> dict[str, np.ndarray]:
    units = unit_rows(views.vectors)
    of_halved = counts[:, views.is_halved]
    if views.twins is not None:
        aligned = _alignment(units, unit_rows(views.twins), counts)
    else:
        aligned = _alignment(unit_rows(views.first), unit_rows(views.second), of_halved)
    mean_vectors = counts @ views.vectors / counts.sum(axis=1, keepdims=True)
    return {
        "self_retrieval_recall_at_1": _counted_mean(views.recall_at_1, of_halved),
        "self_retrieval_mrr": _counted_mean(views.reciprocal_rank, of_halved),
        "alignment": aligned,
        "uniformity": _uniformity(units, counts),
        "isotropy": _isotropy(views.vectors, views.directions, counts),
        "mean_vector_norm": np.linalg.norm(mean_vectors, axis=1),
        "mean_length": _counted_mean(np.linalg.norm(views.vectors, axis=1), counts),
        "mean_cosine": _mean_cosine(units, counts),
    }


def _report(sample: _Sample, views: _Views) -> LabelFreeReport:
    once = _figures(views, np.ones((1, len(sample.texts))))
    return LabelFreeReport(
        level=sample.level,
        texts=len(sample.texts),
        repeated=sample.repeated,
        too_short=int((~sample.is_halved).sum()),
        views="halves" if sample.twins is None else "twins",
        **{name: float(values[0]) for name, values in once.items()},
    )

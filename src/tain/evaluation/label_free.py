"""Label-free report: geometry of an encoder's vectors, and retrieval of a text by another copy of it, both without a block of words.

Alignment and uniformity: Wang and Isola 2020. Isotropy: the definition of Mu and Viswanath 2018, also given in section 6 of Liu et al.
2021 (Mirror-BERT), although the figures of their table cannot follow from it (``isotropy_as_published``). Mean-vector
norm: Liu et al. 2021. Self-retrieval is ours; how it was chosen is in docs/reproduction/evaluation.md. Nothing here needs torch.

Every figure is defined for texts with multiplicities (``counts``): all 1 for the figure, and the counts of a resample for its
bootstrap interval. Pairs of a text with itself never count.
"""

import math
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from tain.evaluation.encoding import EncodedOnce
from tain.evaluation.metrics import GoldRanks, gold_ranks, resample_counts, unit_rows
from tain.foundation.errors import ShapeError, UserError
from tain.models.text_encoder import TextEncoder
from tain.text.scripts import CHARS_PER_WORD, graphemes, lacks_blanks, units

Level = Literal["word", "phrase", "sentence"]

RETRIEVAL = "self-retrieval"
# field of LabelFreeReport: title in tables, model cards and pages; better direction
TITLES: dict[str, tuple[str, Literal["higher", "lower"]]] = {
    "self_retrieval_mrr": (f"{RETRIEVAL} MRR", "higher"),
    "self_retrieval_recall_at_1": (f"{RETRIEVAL} R@1", "higher"),
    "alignment": ("alignment", "lower"),
    "uniformity": ("uniformity", "lower"),
    "isotropy": ("isotropy", "higher"),
    "mean_vector_norm": ("mean-vector norm", "lower"),
    "mean_cosine": ("mean cosine", "lower"),
}

_ROWS_AT_ONCE = 1024  # rows of a (texts, texts) table
_CELLS_AT_ONCE = 4_000_000  # resamples times texts: figures over pairs of texts are computed again for each block of resamples
_SAME_COSINE = 1e-9  # rounding of the sums; rounding in the encoder favours neither copy
_WORSE_BY = 0.01  # smaller changes of a figure are noise on a few hundred texts
_FEWEST_WORDS = 4
_FEWEST_CHARS = 6
_FEWEST_LETTERS = 4
_DROPPED_SHARE = 0.6


@dataclass(frozen=True, kw_only=True)
class LabelFreeReport:
    """Label-free figures of an encoder on a sample of texts. An undefined figure is ``nan``.

    Attributes:
        level: Kind of text. Copies of single words lack a letter, all others a block of words (of characters in scripts without blanks).
        texts: Number of distinct texts.
        repeated: Number of dropped duplicates.
        too_short: Number of ``texts`` too short for copies; they count in all figures but alignment by copies and self-retrieval.
        views: The two views used for alignment: ``copies`` of a text without a block of words, or the given ``twins``.
        self_retrieval_recall_at_1: Share of copies whose nearest neighbour among all second copies is that of the same text. Higher is
            better.
        self_retrieval_mrr: Mean reciprocal rank of the other copy of the same text. Higher is better.
        alignment: Mean squared distance between the unit vectors of two views, 0 to 4. Lower is better.
        uniformity: Log of the mean of exp(-2 * squared distance) over pairs of unit vectors, -8 to 0. Lower is better.
        isotropy: IS of the raw vectors, from 0 (a narrow cone) to 1 (no preferred direction); depends on their scale.
        mean_vector_norm: MVN, the length of the mean of the raw vectors; depends on their scale.
        mean_length: Mean length of the raw vectors, the reference for ``mean_vector_norm``.
        mean_cosine: Mean cosine of two different texts. 0 is ideal; 1 means that all vectors have the same direction.
    """

    level: Level
    texts: int
    repeated: int
    too_short: int
    views: Literal["copies", "twins"]
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
        """Length of the mean vector divided by the mean length, 0 to 1: the part of every vector that is independent of its text."""
        return self.mean_vector_norm / self.mean_length if self.mean_length else math.nan

    def to_dict(self) -> dict[str, object]:
        """Convert the fields for JSON, with ``None`` for undefined figures."""
        return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in asdict(self).items()}

    def is_worse_than(self, other: "LabelFreeReport") -> list[str]:
        """Describe what is worse here than in ``other``, a report on the same texts; empty if nothing is.

        Compares self-retrieval, the sum of alignment and uniformity, and the mean vector's share of the length. Not compared:
        alignment alone (vectors with a single direction have the best one), and IS and MVN, which depend on the scale of the
        vectors.

        Raises:
            ValueError: The reports are on different kinds or numbers of texts.
        """
        if (self.level, self.texts, self.views) != (other.level, other.texts, other.views):
            raise ValueError(
                f"two reports can be compared on the same texts only: {self.texts} by {self.level}, {other.texts} by {other.level}"
                f" (views {self.views}, {other.views})"
            )
        reasons = []
        if other.self_retrieval_mrr - self.self_retrieval_mrr > _WORSE_BY:
            reasons.append(
                "two copies of a text, each without a block of words, retrieve each other less well"
                f" (self-retrieval MRR {self.self_retrieval_mrr:.3f} instead of {other.self_retrieval_mrr:.3f})"
            )
        if _alignment_and_uniformity(self) - _alignment_and_uniformity(other) > _WORSE_BY:
            reasons.append(
                "views of the same text are separated less well from different texts (alignment + uniformity"
                f" {_alignment_and_uniformity(self):.3f} instead of {_alignment_and_uniformity(other):.3f})"
            )
        if self.mean_vector_share - other.mean_vector_share > _WORSE_BY:
            reasons.append(
                "vectors concentrate more in one direction (the mean vector has"
                f" {self.mean_vector_share:.0%} of their length instead of {other.mean_vector_share:.0%})"
            )
        return reasons


def label_free_score(report: LabelFreeReport) -> float:
    """Score for choosing among seeds, higher is better: self-retrieval MRR - 0.01 * (alignment + uniformity).

    Retrieval dominates: over many encoders it ranks like labelled similarity, and better than the rest of the report
    (figures in docs/reproduction/evaluation.md). Alignment plus uniformity breaks near-ties: one unit of it is worth 0.01 of MRR. An undefined
    part counts as 0, as it does for every seed on the same texts.
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
    """Compute the label-free report of an encoder.

    Args:
        encoder: Encoder to evaluate.
        texts: Texts not used to tune the encoder; duplicates (by ``same_text_key``) count once.
        twins: For each text another text with the same meaning, as the views for alignment. Default: two copies, each without a block of words.
        level: Kind of text, see ``dropped_copies``.
        max_texts: Largest sample; more texts are sampled by ``rng``. All pairs are compared, so time is quadratic.
        rng: Random generator of the sample. To compare two encoders, pass new generators with the same seed.

    Raises:
        UserError: There are fewer than two distinct texts, or vectors with nan or infinity.
        ShapeError: The lengths of ``twins`` and ``texts`` differ.
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
    """Compute the label-free report, and the figures on bootstrap resamples of the texts.

    The candidates of self-retrieval and the directions of isotropy are those of the full sample.

    Returns:
        The report, and the values (resamples,) of each figure by name. Equal ``rng`` gives paired resamples.
    """
    sample = _sample(texts, twins, level=level, max_texts=max_texts, rng=rng)
    views = _encode(EncodedOnce(encoder), sample)
    drawn = resample_counts(len(sample.texts), resamples=resamples, rng=rng, cells=_CELLS_AT_ONCE)
    blocks = [_figures(views, counts) for counts in drawn]
    replicates = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    replicates["mean_vector_norm"] = _without_bias(replicates["mean_vector_norm"], views.vectors)
    return _report(sample, views), replicates


def _without_bias(norms: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Norms of the mean vectors of resamples, less what drawing adds: on average var / n to their squares, of ``vectors`` (n, dim).

    Without this, an interval of a small norm lies above the norm itself.
    """
    variance = np.square(vectors).sum(axis=1).mean() - np.square(vectors.mean(axis=0)).sum()
    return np.sqrt(np.maximum(np.square(norms) - variance / len(vectors), 0.0))


def dropped_copies(text: str, *, level: Level) -> tuple[str, str] | None:
    """Two copies of a text, each without a block of 60% of its words, at two different places.

    A single word (level ``word``) loses one letter in each copy. In scripts without blanks between words, the block is one of characters.
    The places are drawn, and depend on the text alone. A character is a grapheme: no letter loses its marks.

    Returns:
        ``None`` if the text has fewer than 4 words (4 characters for ``word``, 8 in scripts without blanks).
    """
    found = _parts(text, level, fewest_letters=_FEWEST_LETTERS)
    if found is None:
        return None
    parts, glue = found
    dropped = 1 if level == "word" else round(_DROPPED_SHARE * len(parts))
    rng = np.random.default_rng(zlib.crc32(text.encode("utf-8", "surrogatepass")))
    starts = rng.permutation(len(parts) - dropped + 1)[:2].tolist()
    first, second = (glue.join(parts[:start] + parts[start + dropped :]).strip() for start in starts)
    return first, second


def halves(text: str, *, level: Level) -> tuple[str, str] | None:
    """Split a text into two halves by words (by characters for ``word`` and in scripts without blanks between words).

    The middle word of an odd number goes to the second half. Consecutive halves, rather than alternating words, keep the natural word
    order. A character is a grapheme: no letter loses its marks.

    Returns:
        ``None`` if the text has fewer than 4 words (6 characters for ``word``, 8 in scripts without blanks).
    """
    found = _parts(text, level, fewest_letters=_FEWEST_CHARS)
    if found is None:
        return None
    parts, glue = found
    middle = len(parts) // 2
    return glue.join(parts[:middle]).rstrip(), glue.join(parts[middle:]).lstrip()


def _parts(text: str, level: Level, *, fewest_letters: int) -> tuple[list[str], str] | None:
    """Words of a text, or its letters (level ``word``, scripts without blanks), and what joins them; None if there are too few."""
    if level == "word":
        parts, glue, fewest = graphemes(text.strip()), "", fewest_letters
    elif lacks_blanks(text):
        parts, glue, fewest = units(text.strip()), "", CHARS_PER_WORD * _FEWEST_WORDS
    else:
        parts, glue, fewest = text.split(), " ", _FEWEST_WORDS
    return (parts, glue) if len(parts) >= fewest else None


# ---- single figures


def alignment(left: np.ndarray, right: np.ndarray) -> float:
    """Mean squared distance of corresponding rows of ``left`` and ``right`` (n, dim), scaled to length 1; 0 to 4, lower is better.

    Wang and Isola 2020, with their exponent 2.

    Raises:
        ShapeError: The two shapes differ.
    """
    if left.ndim != 2 or left.shape != right.shape:
        raise ShapeError(f"alignment needs two tables of equal shape, got {left.shape} and {right.shape}")
    return float(_alignment(unit_rows(left), unit_rows(right), np.ones((1, len(left))))[0])


def uniformity(vectors: np.ndarray) -> float:
    """Log of the mean over pairs of exp(-2 * squared distance), for rows of ``vectors`` (n, dim) scaled to length 1; lower is better.

    Wang and Isola 2020, with their t = 2. Each pair counts once; pairs of a row with itself do not count.

    Raises:
        ShapeError: There are fewer than two vectors.
    """
    _refuse_fewer_than_two(vectors)
    return float(_uniformity(unit_rows(vectors), np.ones((1, len(vectors))))[0])


def isotropy(vectors: np.ndarray) -> float:
    """IS(V) = min_c Z(c) / max_c Z(c) with Z(c) = sum_v exp(c.v), of raw ``vectors`` (n, dim); 0 to 1, higher is better.

    c runs over the eigenvectors of V^T V, as in Mu and Viswanath 2018. The sign of an eigenvector is arbitrary, but exp(c.v) depends
    on it, so both signs are included to be independent of the linear algebra library. Sums are computed in log space.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    return float(_isotropy(vectors, _directions(vectors), np.ones((1, len(vectors))))[0])


def isotropy_as_published(vectors: np.ndarray) -> float:
    """``isotropy`` over the rows, not columns, of the eigenvector matrix; comparable with Mirror-BERT's table.

    Inferred, not documented: Liu et al. 2021 give the definition over eigenvectors, by which a mean vector of length m along one
    of them bounds IS by about exp(-m). Their table has 0.043 at m = 13.8. Rows give figures close to the table, eigenvectors do not.
    A row is an arbitrary direction with a mean-vector component near m / sqrt(dim), so this figure follows the mean-vector
    norm and does not detect a narrow cone. Only one sign of each row is used, so it depends on the linear algebra library in its last
    digits, and more strongly in few dimensions. Use ``isotropy`` for everything else.

    Args:
        vectors: Raw vectors (n, dim); the figure depends on their scale.

    Returns:
        0 to 1, higher is better.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    directions = np.linalg.eigh(vectors.T @ vectors)[1]  # the full matrix, so that its rows are (dim,)
    logs = _counted_logsumexp(vectors @ directions.T, np.ones((1, len(vectors))))
    return float(np.exp(logs.min() - logs.max()))


def mean_vector_norm(vectors: np.ndarray) -> float:
    """MVN: the length of the mean of ``vectors`` (n, dim)."""
    return float(np.linalg.norm(np.asarray(vectors, dtype=np.float64).mean(axis=0)))


def mean_cosine(vectors: np.ndarray) -> float:
    """Mean cosine over pairs of different rows of ``vectors`` (n, dim).

    Raises:
        ShapeError: There are fewer than two vectors.
    """
    _refuse_fewer_than_two(vectors)
    return float(_mean_cosine(unit_rows(vectors), np.ones((1, len(vectors))))[0])


def self_retrieval(first: np.ndarray, second: np.ndarray) -> GoldRanks:
    """Rank of row i of ``second`` (n, dim) among all its rows for row i of ``first``, and vice versa.

    Returns:
        Ranks (2 * n,): first to second, then second to first; by cosine, with ties below a difference of 1e-9.
    """
    first, second = unit_rows(first), unit_rows(second)
    found = [GoldRanks(better=np.empty(0, dtype=int), tied=np.empty(0, dtype=int))]  # the result if there are no copies
    for queries, candidates in ((first, second), (second, first)):
        for start in range(0, len(queries), _ROWS_AT_ONCE):
            rows = queries[start : start + _ROWS_AT_ONCE]
            found.append(gold_ranks(rows @ candidates.T, np.arange(start, start + len(rows)), tolerance=_SAME_COSINE))
    return GoldRanks(better=np.concatenate([p.better for p in found]), tied=np.concatenate([p.tied for p in found]))


def _refuse_fewer_than_two(vectors: np.ndarray) -> None:
    if vectors.ndim != 2 or len(vectors) < 2:
        raise ShapeError(f"a figure over pairs needs at least 2 vectors, got {vectors.shape}")


# ---- the same figures with counts: ``counts`` is (resamples, n), results are (resamples,)


def _counted_mean(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    total = counts.sum(axis=1)
    return np.divide(counts @ values, total, out=np.full(len(counts), np.nan), where=total > 0)


def _counted_pairs(counts: np.ndarray) -> np.ndarray:
    return counts.sum(axis=1) ** 2 - np.square(counts).sum(axis=1)


def _alignment(left: np.ndarray, right: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return _counted_mean(np.square(left - right).sum(axis=1), counts)


def _uniformity(units: np.ndarray, counts: np.ndarray) -> np.ndarray:
    squares = np.square(units).sum(axis=1)  # 1, or 0 for a zero vector
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
    """Eigenvectors of V^T V as columns (dim, dim); with fewer vectors than dimensions, those in their span, and zeros.

    A zero column represents all other eigenvectors: their product with every vector is 0.
    """
    count, dim = vectors.shape
    if count >= dim:
        return np.linalg.eigh(vectors.T @ vectors)[1]
    squares, sides = np.linalg.eigh(vectors @ vectors.T)  # (n, n): the same eigenvalues in far less time
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


# ---- assembling the report


@dataclass(frozen=True, kw_only=True)
class _Sample:
    level: Level
    texts: list[str]
    twins: list[str] | None
    repeated: int
    copies: list[tuple[str, str]]
    is_copied: np.ndarray  # (texts,)


@dataclass(frozen=True, kw_only=True)
class _Views:
    vectors: np.ndarray  # raw, float64 (texts, dim)
    directions: np.ndarray  # (dim, dim)
    twins: np.ndarray | None  # (texts, dim)
    first: np.ndarray  # (copied, dim)
    second: np.ndarray
    is_copied: np.ndarray  # (texts,)
    recall_at_1: np.ndarray  # (copied,)
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
        raise UserError(f"{len(rows)} distinct texts for the label-free report, which compares texts with each other: give at least 2")
    if len(rows) > max_texts:
        rows = [rows[index] for index in np.sort(rng.choice(len(rows), size=max_texts, replace=False))]
    copies = [dropped_copies(texts[row], level=level) for row in rows]
    return _Sample(
        level=level,
        texts=[texts[row] for row in rows],
        twins=None if twins is None else [twins[row] for row in rows],
        repeated=len(texts) - len(first_of_key),
        copies=[pair for pair in copies if pair is not None],
        is_copied=np.array([pair is not None for pair in copies]),
    )


def _encode(encoder: EncodedOnce, sample: _Sample) -> _Views:
    first, second = ([pair[side] for pair in sample.copies] for side in (0, 1))
    encoder.encode([*sample.texts, *(sample.twins or []), *first, *second])  # all at once, to fill the batches
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
        is_copied=sample.is_copied,
        recall_at_1=indices.recall_at(1).reshape(both_ways).mean(axis=0),
        reciprocal_rank=indices.reciprocal_rank().reshape(both_ways).mean(axis=0),
    )


def _figures(views: _Views, counts: np.ndarray) -> dict[str, np.ndarray]:
    units = unit_rows(views.vectors)
    of_copied = counts[:, views.is_copied]
    if views.twins is not None:
        aligned = _alignment(units, unit_rows(views.twins), counts)
    else:
        aligned = _alignment(unit_rows(views.first), unit_rows(views.second), of_copied)
    mean_vectors = counts @ views.vectors / counts.sum(axis=1, keepdims=True)
    return {
        "self_retrieval_recall_at_1": _counted_mean(views.recall_at_1, of_copied),
        "self_retrieval_mrr": _counted_mean(views.reciprocal_rank, of_copied),
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
        too_short=int((~sample.is_copied).sum()),
        views="copies" if sample.twins is None else "twins",
        **{name: float(values[0]) for name, values in once.items()},
    )

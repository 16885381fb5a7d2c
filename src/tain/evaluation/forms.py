"""Measure what stored forms of vectors lose: encoders whose vectors pass through a form, and a table of size and score."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from tain.evaluation.encoding import ComparesTexts, EncodedOnce, FitsAtHand, OnePerLanguage, languages_of
from tain.evaluation.report import EvaluationReport
from tain.foundation.choices import OutputDtype
from tain.foundation.errors import UserError
from tain.models.text_encoder import TextEncoder
from tain.models.vector_forms import Int8Ranges, decoded, shortened, stored_as, vector_bytes


class InForm:
    """An encoder whose vectors are stored in a form and decoded again.

    Args:
        encoder: The encoder.
        once: Encodes its texts; shared by all forms of the encoder.
        dtype: Data type of the stored vectors; None leaves the vectors as they are, under the encoder's own name.
        dims: Numbers kept of each vector; None for all.

    Attributes:
        name: The encoder's name and the form.
        truncated: Texts truncated by the last call of ``encode``.
        dim: Dimension of the stored vectors, once some were encoded.
    """

    def __init__(self, encoder: TextEncoder, once: EncodedOnce, *, dtype: OutputDtype | None, dims: int | None) -> None:
        form = ", ".join([*([dtype] if dtype else []), *([f"{dims} dims"] if dims else [])])
        self.name = f"{encoder.name} ({form})" if form else encoder.name
        self.languages = languages_of(encoder)
        self.tokenizer = getattr(encoder, "tokenizer", None) if dtype is None else None  # warn of unknown texts once
        self.dtype: OutputDtype = dtype or "float32"
        self.dims = dims
        self.is_form = dtype is not None
        self.truncated = 0
        self.dim = 0
        self._once = once
        self._ranges: Int8Ranges | None = None

    def encode(self, texts: Sequence[str], /, *, language: str | None = None) -> Float32[np.ndarray, "texts dim"]:
        """Encode texts, store the vectors in the form, and decode them."""
        before = self._once.truncated
        vectors = shortened(self._once.encode(texts, language=language), self.dims)
        self.truncated = self._once.truncated - before
        self.dim = vectors.shape[1]
        if self.dtype == "int8" and self._ranges is None:
            self._ranges = Int8Ranges.calibrated(vectors)
        return decoded(stored_as(vectors, self.dtype, ranges=self._ranges), ranges=self._ranges, dim=self.dim)


class CalibratedForm(InForm):
    """An encoder in int8 whose ranges are those of all texts of a suite."""

    def fit_at_hand(self, texts: Sequence[str], /) -> None:
        """Measure the ranges."""
        if len(texts):
            self._ranges = Int8Ranges.calibrated(shortened(self._once.encode(texts), self.dims))


@dataclass(frozen=True)
class FormFigures:
    """One line of the table of forms.

    Attributes:
        model: Name of the model and the form.
        bytes: Of one stored vector.
        score: Headline figure of the evaluation.
        lost: Score of the model's own float32 vectors minus ``score``; None for these vectors themselves.
    """

    model: str
    bytes: int
    score: float
    lost: float | None


def with_forms(encoders: Iterable[TextEncoder], *, dtypes: Sequence[OutputDtype], dims: int | None) -> Iterator[InForm]:
    """Give each encoder as it is, followed by its forms.

    Args:
        encoders: As given to ``evaluate``.
        dtypes: Data types of the forms.
        dims: Numbers kept of each vector in all forms.

    Raises:
        UserError: An encoder is a baseline, which has no vectors that could be stored.
    """
    for encoder in encoders:
        if isinstance(encoder, FitsAtHand | ComparesTexts):
            raise UserError(f"output_dtype and dims are forms of stored vectors, but {encoder.name!r} is a baseline: leave it out")
        once = EncodedOnce(encoder)
        yield InForm(encoder, once, dtype=None, dims=None)
        for dtype in dtypes:
            # a model with languages needs the language of each text, which is not known when all texts are collected
            is_fitted = dtype == "int8" and not languages_of(encoder) and not isinstance(encoder, OnePerLanguage)
            yield (CalibratedForm if is_fitted else InForm)(encoder, once, dtype=dtype, dims=dims)


def form_figures(report: EvaluationReport, encoders: Sequence[InForm]) -> list[FormFigures]:
    """Bytes and score of each form in a report.

    Args:
        report: Of ``encoders``.
        encoders: What ``with_forms`` gave, in the same order.
    """
    found: list[FormFigures] = []
    whole = 0.0
    for encoder, figure in zip(encoders, report.headline()[1].figures, strict=True):
        if not encoder.is_form:
            whole = figure.value
        lost = whole - figure.value if encoder.is_form else None
        found.append(FormFigures(encoder.name, vector_bytes(encoder.dim, encoder.dtype), figure.value, lost))
    return found


def forms_table(figures: Sequence[FormFigures], title: str) -> Any:
    """The table of forms, for rich; ``title`` names the score."""
    from tain.foundation.ruled_table import ruled

    table = ruled()
    table.add_column("form")
    for column in ("bytes a vector", title, "lost"):
        table.add_column(column, justify="right")
    for each in figures:
        table.add_row(each.model, f"{each.bytes:,}", f"{each.score:.2f}", "" if each.lost is None else f"{each.lost:+.2f}")
    return table

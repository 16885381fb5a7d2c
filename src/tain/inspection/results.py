"""Results of an inspection: frozen dataclasses with conversion to plain data."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64

from tain.foundation.errors import UserError
from tain.inspection.mixing import GroupMixing, MixingStatistics
from tain.inspection.norms import METHODS
from tain.inspection.rollout import rollout

_SAME_WITHIN = 0.001  # smaller differences of a mean ratio are shown as equal in tables

ROLLED = ("AttnRes-W", "AttnRes-N", "AttnResLn-N", "Layer-N")  # methods with the residual connection, which roll-out needs


@dataclass(frozen=True, kw_only=True)
class TextInspection:
    """One text, token by token. In every matrix row i holds the parts of token i.

    Attributes:
        text: The given text.
        tokens: Pieces read by the model, including special ones.
        kinds: Kind of each token: the spelling of a special token, ``punctuation`` or ``words``.
        cut: Number of tokens truncated at the length limit.
        methods: Methods along the second axis of ``ratios``.
        ratios: Mixing ratios by layer, method and token.
        weights: Attention weights by layer and head.
        head_lengths: |f^h(x_j)| by layer, head and token: the norm of a part at weight 1.
        norms: Norms of the parts by method, then by layer; ``AttnResLn-N`` is the paper's method.
        vectors: Token vectors of the last layer, as they are pooled.
    """

    text: str
    tokens: tuple[str, ...]
    kinds: tuple[str, ...]
    cut: int
    methods: tuple[str, ...]
    ratios: Float[np.ndarray, "layers methods tokens"]
    weights: Float[np.ndarray, "layers heads tokens tokens"]
    head_lengths: Float[np.ndarray, "layers heads tokens"]
    norms: Mapping[str, np.ndarray]
    vectors: Float[np.ndarray, "tokens dim"]

    def matrix(self, method: str, *, layer: int, head: int | None = None) -> Float[np.ndarray, "tokens tokens"]:
        """Weights or norms of one layer, over all heads or for one head.

        Args:
            method: One of ``methods``; for a single head ``Attn-W`` or ``Attn-N``.
            layer: Layer index from 0.
            head: Head index from 0; None for all heads together.

        Raises:
            UserError: The method, layer or head does not exist.
        """
        layers, heads = self.weights.shape[:2]
        _refuse_unknown(method, self.methods)
        if not 0 <= layer < layers or (head is not None and not 0 <= head < heads):
            raise UserError(
                f"layer {layer}, head {head} does not exist: layers go from 0 to {layers - 1}, heads from 0 to {heads - 1}, None is all"
            )
        if head is not None:
            if method not in ("Attn-W", "Attn-N"):
                raise UserError(f"method {method!r} covers all heads together: for one head give Attn-W or Attn-N")
            return self.weights[layer, head] * (1.0 if method == "Attn-W" else self.head_lengths[layer, head])
        if method in self.norms:
            return self.norms[method][layer]
        weights = self.weights[layer].mean(0)
        return weights if method == "Attn-W" else (weights + np.eye(len(weights), dtype=weights.dtype)) / 2

    def rolled(self, method: str = "AttnResLn-N") -> Float[np.ndarray, "layers tokens tokens"]:
        """Shares of the input tokens in each token, up to and including each layer; see ``inspection.rollout``.

        Raises:
            UserError: The method does not include the residual connection.
        """
        _refuse_unknown(method, tuple(name for name in ROLLED if name in self.methods))
        layers = [self.matrix(method, layer=layer).astype(np.float64) for layer in range(len(self.weights))]
        return rollout(torch.from_numpy(np.stack(layers))).numpy()


@dataclass(frozen=True, kw_only=True)
class SimilarityInspection:
    """Cosine of two of the shown texts, decomposed over their token pairs.

    Attributes:
        left: Index of the one text among those shown, from 0.
        right: Index of the other.
        cosine: Cosine of their vectors.
        contributions: Contribution of each token pair; the sum is ``cosine``.
    """

    left: int
    right: int
    cosine: float
    contributions: Float64[np.ndarray, "left_tokens right_tokens"]


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Mixing ratios of a model over all texts, and details of some texts token by token.

    Attributes:
        model: Model name.
        architecture: The transformers class.
        is_post: Normalisation follows the residual connection (BERT); False where it precedes attention (ModernBERT).
        layers: Number of layers.
        heads: Heads per layer.
        statistics: Statistics over all texts.
        expansion_rates: Expansion rate of each layer's attention map; independent of the texts.
        texts: The first texts, token by token.
        similarities: Similarity of every pair of these.
        why_no_similarity: Reason, if the vectors are not plain means of token vectors; else empty.
        truncated: Number of texts truncated at the length limit.
        cut_tokens: Number of tokens removed from them.
        max_tokens: Length limit, including special tokens.
        left_out: Number of texts with special tokens only.
        masking_rate: Share of tokens replaced by the mask token for the statistics.
        seed: Seed of the masking.
        error: Largest difference between the summed parts of a block and its real output, relative to the largest number there.
    """

    model: str
    architecture: str
    is_post: bool
    layers: int
    heads: int
    statistics: MixingStatistics
    expansion_rates: tuple[float, ...]
    texts: tuple[TextInspection, ...]
    similarities: tuple[SimilarityInspection, ...]
    why_no_similarity: str
    truncated: int
    cut_tokens: int
    max_tokens: int
    left_out: int
    masking_rate: float
    seed: int
    error: float

    geometry: ClassVar[None] = None  # only a comparison has it

    @property
    def methods(self) -> tuple[str, ...]:
        return self.statistics.methods

    @property
    def title(self) -> str:
        """Short model name: the last parts of its path."""
        return "/".join(self.model.rstrip("/").split("/")[-2:])

    @property
    def models(self) -> "tuple[Inspection, ...]":
        """This inspection, as a tuple; a comparison has two."""
        return (self,)

    @property
    def titles(self) -> tuple[str, ...]:
        """Name of each of ``models`` in tables."""
        return (self.title,)

    def claim(self) -> str:
        """One-sentence summary: the share that comes from other tokens."""
        overall = dict(zip(self.methods, self.statistics.overall, strict=True))
        return (
            f"{overall['AttnResLn-N']:.1%} of a token's vector comes from other tokens in a layer of {self.title}, "
            f"while attention weights alone suggest {overall['Attn-W']:.1%}"
        )

    def to_dict(self, *, matrices: bool = False) -> dict[str, Any]:
        """Convert the inspection to plain data for JSON.

        Args:
            matrices: Also include each shown text's weights and norms: tokens x tokens numbers per layer, method and head.
        """
        return {
            "model": self.model,
            "architecture": self.architecture,
            "normalisation": "after attention" if self.is_post else "before attention",
            "layers": self.layers,
            "heads": self.heads,
            "methods": list(self.methods),
            "max_tokens": self.max_tokens,
            "texts_cut": self.truncated,
            "tokens_cut": self.cut_tokens,
            "texts_left_out": self.left_out,
            "masking_rate": self.masking_rate,
            "seed": self.seed,
            "reconstruction_error": self.error,
            "claim": self.claim(),
            "expansion_rates": list(self.expansion_rates),
            "statistics": _statistics(self.statistics),
            "texts": [_text(text, matrices=matrices) for text in self.texts],
            "similarities": [
                {"left": each.left, "right": each.right, "cosine": each.cosine, "contributions": each.contributions.tolist()}
                for each in self.similarities
            ],
            "why_no_similarity": self.why_no_similarity or None,
        }

    def to_csv(self) -> str:
        """CSV with one line per shown token, layer and method, with the mixing ratio; layers, positions and texts count from 1."""
        return _csv(self.models, titles=self.titles)

    def _repr_html_(self) -> str:
        from tain.inspection.pages import in_notebook

        return in_notebook(self)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Inspections of two models on the same texts.

    Attributes:
        first: The reference, such as the model before mirroring.
        second: The model compared with it.
        geometry: Geometry of the vectors of these texts for each model: isotropy, length and share of the mean vector, mean cosine; None
            with fewer than two distinct texts.
    """

    first: Inspection
    second: Inspection
    geometry: tuple[Mapping[str, float], Mapping[str, float]] | None

    @property
    def models(self) -> tuple[Inspection, ...]:
        """Both."""
        return self.first, self.second

    @property
    def titles(self) -> tuple[str, str]:
        """Names of the two in tables: short names, or full ones if the short ones are equal."""
        if self.first.title == self.second.title:
            return self.first.model, self.second.model
        return self.first.title, self.second.title

    def change(self) -> Float64[np.ndarray, " methods"]:
        """Difference of the mean ratios of each method, second minus first."""
        return self.second.statistics.overall - self.first.statistics.overall

    def claim(self) -> str:
        """One-sentence summary of the change, by the paper's method."""
        before, after = (each.statistics.overall[METHODS.index("AttnResLn-N")] for each in (self.first, self.second))
        first, second = self.titles
        if abs(after - before) < _SAME_WITHIN:
            return f"{second} mixes in as much of other tokens as {first}: {after:.1%} of a token's vector in a layer"
        way = "more" if after > before else "less"
        return f"{second} mixes in {way} of other tokens than {first}: {after:.1%} of a token's vector in a layer, against {before:.1%}"

    def to_dict(self, *, matrices: bool = False) -> dict[str, Any]:
        """Convert the comparison to plain data for JSON."""
        geometry = None
        if self.geometry is not None:
            geometry = [{name: _finite(value) for name, value in each.items()} for each in self.geometry]
        return {
            "claim": self.claim(),
            "change": dict(zip(self.first.methods, self.change().tolist(), strict=True)),
            "geometry": geometry,
            "models": [each.to_dict(matrices=matrices) for each in (self.first, self.second)],
        }

    def to_csv(self) -> str:
        """CSV lines of both models, as in ``Inspection.to_csv``."""
        return _csv(self.models, titles=self.titles)

    def _repr_html_(self) -> str:
        from tain.inspection.pages import in_notebook

        return in_notebook(self)


def _refuse_unknown(method: str, known: tuple[str, ...]) -> None:
    if method not in known:
        raise UserError(f"method is {method!r}: give one of {', '.join(known)}")


def _csv(models: Sequence[Inspection], *, titles: Sequence[str]) -> str:
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["model", "text", "place", "token", "kind", "layer", "method", "mixing_ratio"])
    for model, title in zip(models, titles, strict=True):
        for number, text in enumerate(model.texts, start=1):
            for layer, methods in enumerate(text.ratios, start=1):
                for method, ratios in zip(text.methods, methods, strict=True):
                    for index, (token, kind, ratio) in enumerate(zip(text.tokens, text.kinds, ratios, strict=True), start=1):
                        table.writerow([title, number, index, token, kind, layer, method, f"{ratio:.6f}"])
    return stream.getvalue()


def _statistics(found: MixingStatistics) -> dict[str, Any]:
    def group(each: GroupMixing) -> dict[str, Any]:
        return {"name": each.name, "tokens": each.tokens, "overall": each.overall.tolist(), "by_layer": each.means.tolist()}

    return {
        "texts": found.texts,
        "tokens": found.tokens,
        "overall": found.overall.tolist(),
        "minimum": found.minima.min(0).tolist(),
        "maximum": found.maxima.max(0).tolist(),
        "by_layer": found.means.tolist(),
        "deviation_by_layer": found.deviations.tolist(),
        "kinds": [group(each) for each in found.kinds],
        "by_frequency": [group(each) for each in found.by_frequency],
        "frequency_correlation": [_finite(value) for value in found.frequency_correlation],
        "frequency_correlation_without_special_tokens": [_finite(value) for value in found.frequency_correlation_words],
        "correlated_tokens": found.correlated_tokens,
    }


def _text(found: TextInspection, *, matrices: bool) -> dict[str, Any]:
    plain = {
        "text": found.text,
        "tokens": list(found.tokens),
        "kinds": list(found.kinds),
        "tokens_cut": found.cut,
        "ratios": found.ratios.tolist(),
    }
    if matrices:
        plain |= {
            "weights": found.weights.tolist(),
            "head_lengths": found.head_lengths.tolist(),
            "norms": {method: norms.tolist() for method, norms in found.norms.items()},
            "rollout": found.rolled().tolist(),
        }
    return plain


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

"""What an inspection found: frozen results, and as plain data."""

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

_SAME_WITHIN = 0.001  # smaller differences of a mean ratio are the same in every table

ROLLED = ("AttnRes-W", "AttnRes-N", "AttnResLn-N", "Layer-N")  # methods with the residual connection: a roll-out needs it


@dataclass(frozen=True, kw_only=True)
class TextInspection:
    """One text, token by token. In every matrix row i tells what token i is made of.

    Attributes:
        text: As it was given.
        tokens: The pieces that the model read, special ones included.
        kinds: Each token's kind: a special token's spelling, ``punctuation`` or ``words``.
        cut: Tokens that were cut at the length limit.
        methods: What the second axis of ``ratios`` stands for.
        ratios: Mixing ratios by layer, method and token.
        weights: Attention weights by layer and head.
        head_lengths: |f^h(x_j)| by layer, head and token: what a weight of 1 would be worth.
        norms: By method, and then by layer, the norms of the parts; ``AttnResLn-N`` is the paper's.
        vectors: The last layer's token vectors, as the model pools them.
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
        """Weights or norms of one layer, of all heads together or of one.

        Args:
            method: One of ``methods``; of a single head ``Attn-W`` or ``Attn-N``.
            layer: From 0.
            head: From 0; None for all together.

        Raises:
            UserError: There is no such method, layer or head.
        """
        layers, heads = self.weights.shape[:2]
        _refuse_unknown(method, self.methods)
        if not 0 <= layer < layers or (head is not None and not 0 <= head < heads):
            raise UserError(
                f"layer {layer}, head {head} is asked for: layers go from 0 to {layers - 1}, heads from 0 to {heads - 1}, None is all"
            )
        if head is not None:
            if method not in ("Attn-W", "Attn-N"):
                raise UserError(f"method {method!r} is of all heads together: of one head give Attn-W or Attn-N")
            return self.weights[layer, head] * (1.0 if method == "Attn-W" else self.head_lengths[layer, head])
        if method in self.norms:
            return self.norms[method][layer]
        weights = self.weights[layer].mean(0)
        return weights if method == "Attn-W" else (weights + np.eye(len(weights), dtype=weights.dtype)) / 2

    def rolled(self, method: str = "AttnResLn-N") -> Float[np.ndarray, "layers tokens tokens"]:
        """What each token has from each token of the input, up to and with each layer, in shares; see ``inspection.rollout``.

        Raises:
            UserError: The method knows no residual connection.
        """
        _refuse_unknown(method, tuple(name for name in ROLLED if name in self.methods))
        layers = [self.matrix(method, layer=layer).astype(np.float64) for layer in range(len(self.weights))]
        return rollout(torch.from_numpy(np.stack(layers))).numpy()


@dataclass(frozen=True, kw_only=True)
class SimilarityInspection:
    """The cosine of two of the shown texts, split over their pairs of tokens.

    Attributes:
        left: Which of the shown texts, from 0.
        right: The other.
        cosine: Of their vectors.
        contributions: What each pair of tokens adds; the sum is ``cosine``.
    """

    left: int
    right: int
    cosine: float
    contributions: Float64[np.ndarray, "left_tokens right_tokens"]


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a model mixes, over all texts and token by token for some.

    Attributes:
        model: Its name.
        architecture: The class that transformers runs it with.
        is_post: Normalisation follows the residual connection (BERT); False where it precedes attention (ModernBERT).
        layers: How many.
        heads: In each layer.
        statistics: Over all texts.
        expansion_rates: Of each layer's attention map; needs no text.
        texts: The first texts, token by token.
        similarities: Of every two of these.
        why_no_similarity: In words, where the vectors are no plain means of token vectors; empty elsewhere.
        truncated: Texts that were cut at the length limit.
        cut_tokens: Tokens that were cut from them.
        max_tokens: That limit, special tokens included.
        left_out: Texts that had nothing but special tokens.
        masking_rate: Share of tokens that showed the mask token for the statistics.
        seed: Fixed which.
        error: The largest difference of a block's summed parts from its real output, as a share of the largest number there.
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
        """The model's name without the folders far above it."""
        return "/".join(self.model.rstrip("/").split("/")[-2:])

    @property
    def models(self) -> "tuple[Inspection, ...]":
        """This inspection; a comparison has two."""
        return (self,)

    @property
    def titles(self) -> tuple[str, ...]:
        """The name of each of ``models`` in tables."""
        return (self.title,)

    def claim(self) -> str:
        """Say in one sentence how much comes from other tokens."""
        overall = dict(zip(self.methods, self.statistics.overall, strict=True))
        return (
            f"{overall['AttnResLn-N']:.1%} of a token's vector comes from other tokens in a layer of {self.title}, "
            f"where attention weights alone would say {overall['Attn-W']:.1%}"
        )

    def to_dict(self, *, matrices: bool = False) -> dict[str, Any]:
        """Everything as plain data for JSON.

        Args:
            matrices: Also give each shown text's weights and norms: tokens x tokens numbers for each layer, method and head.
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
        """One line for each shown token, layer and method, with its mixing ratio; layers, places and texts count from 1."""
        return _csv(self.models, titles=self.titles)

    def _repr_html_(self) -> str:
        from tain.inspection.pages import in_notebook

        return in_notebook(self)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on the same texts.

    Attributes:
        first: What the other is compared with: before mirroring, for one.
        second: The other.
        geometry: For each of the two how its vectors of these texts lie: isotropy, length and share of the mean vector, mean cosine. None
            where there are fewer than two different texts.
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
        """What tables call the two: short names, or whole ones where the short ones are the same."""
        if self.first.title == self.second.title:
            return self.first.model, self.second.model
        return self.first.title, self.second.title

    def change(self) -> Float64[np.ndarray, " methods"]:
        """By how much each method's mean ratio differs, the second less the first."""
        return self.second.statistics.overall - self.first.statistics.overall

    def claim(self) -> str:
        """Say in one sentence what changed, by the paper's method."""
        before, after = (each.statistics.overall[METHODS.index("AttnResLn-N")] for each in (self.first, self.second))
        first, second = self.titles
        if abs(after - before) < _SAME_WITHIN:
            return f"{second} mixes in as much of other tokens as {first}: {after:.1%} of a token's vector in a layer"
        way = "more" if after > before else "less"
        return f"{second} mixes in {way} of other tokens than {first}: {after:.1%} of a token's vector in a layer, against {before:.1%}"

    def to_dict(self, *, matrices: bool = False) -> dict[str, Any]:
        """Everything as plain data for JSON."""
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
        """The lines of both models, as ``Inspection.to_csv`` gives them."""
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

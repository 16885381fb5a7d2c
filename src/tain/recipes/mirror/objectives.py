"""Losses of mirroring: a table of terms that are added up with their weights."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from tain.objectives.contrastive import prefix_info_nce, similarity_gap
from tain.recipes.mirror.config import ResolvedMirrorConfig


@dataclass(frozen=True)
class StepVectors:
    """Vectors of one step, as objectives read them.

    Attributes:
        views: Vectors of the left and right view of each pair in turn, of all processes.
        anchors: Token vectors of the same texts in the same order; None without an anchor.
        is_same: Which pairs share a text; None if no two do.
        further: Vectors that are negatives of every view: those of earlier batches and noise; None for none.
        is_same_further: Which of them hold a text of a pair; None if none does.
    """

    views: Float[Tensor, "twice_batch dim"]
    anchors: Float[Tensor, "twice_batch anchor_dim"] | None
    is_same: Bool[Tensor, "batch batch"] | None
    further: Float[Tensor, "further dim"] | None = None
    is_same_further: Bool[Tensor, "batch further"] | None = None


Objective = Callable[[StepVectors, ResolvedMirrorConfig], Tensor | None]


def contrast(vectors: StepVectors, config: ResolvedMirrorConfig) -> Float[Tensor, ""]:
    """Pull the two views of a pair together and push the batch's other texts away (Liu et al. 2021, section 2.3).

    With ``dims``, also by the prefixes of the vectors (Kusupati et al. 2022). With a queue or noise, also away from those vectors.
    """
    return prefix_info_nce(
        vectors.views[0::2],
        vectors.views[1::2],
        dims=config.prefix_dims,
        temperature=config.temperature,
        is_same=vectors.is_same,
        further=vectors.further,
        is_same_further=vectors.is_same_further,
    )


def anchor(vectors: StepVectors, config: ResolvedMirrorConfig) -> Float[Tensor, ""] | None:
    """Keep cosines between texts close to those of token vectors, weighted by ``anchor``; None without an anchor."""
    if vectors.anchors is None or not config.anchor:
        return None
    return config.anchor * similarity_gap(vectors.views, vectors.anchors.to(vectors.views.device))


# a new term is a function and a row
OBJECTIVES: dict[str, Objective] = {"contrast": contrast, "anchor": anchor}


def total_loss(vectors: StepVectors, config: ResolvedMirrorConfig) -> Float[Tensor, ""]:
    """Add up all terms that the settings ask for."""
    terms = [term for objective in OBJECTIVES.values() if (term := objective(vectors, config)) is not None]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total

"""Contrastive losses over two views of each text, and a similarity-preserving loss."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from tain.foundation.errors import ShapeError


def info_nce(
    left: Float[Tensor, "batch dim"],
    right: Float[Tensor, "batch dim"],
    *,
    temperature: float,
    is_same: Bool[Tensor, "batch batch"] | None = None,
    further: Float[Tensor, "further dim"] | None = None,
    is_same_further: Bool[Tensor, "batch further"] | None = None,
) -> Float[Tensor, ""]:
    """InfoNCE: pull the two views of each text together and push the other texts of the batch away.

    Liu et al. 2021 (Mirror-BERT), section 2.3, in the form of the released code: the denominator keeps the positive
    pair, as NT-Xent does. The form printed in the paper leaves it out and is unbounded below.

    Args:
        left: One view of each text; vectors of any length, compared by cosine.
        right: The other view; row i is the twin of ``left[i]``.
        temperature: Divides the cosines, above 0. The paper uses 0.04 (sentences), 0.2 (words).
        is_same: True where two rows hold the same text and are not negatives of each other. Symmetric; the diagonal is ignored.
        further: Vectors that are negatives of every anchor and no anchors themselves, such as those of earlier batches (He et al. 2020, MoCo)
            or noise (Wu et al. 2021, GS-InfoNCE).
        is_same_further: True where a further vector holds the text of a row, and is not its negative.

    Returns:
        Mean over the 2 * batch anchors, in nats. Chance level is log(2 * batch - 1 + further).

    Raises:
        ShapeError: Fewer than two texts leave no negatives.
    """
    batch = len(left)
    if batch < 2:
        raise ShapeError(f"info_nce needs at least 2 texts for negatives, got {tuple(left.shape)}")
    views = F.normalize(torch.cat([left, right]).float(), dim=-1)  # (2 * batch, dim)
    logits = views @ views.T / temperature  # (2 * batch, 2 * batch)
    itself = torch.eye(2 * batch, dtype=torch.bool, device=logits.device)
    is_excluded = itself
    if is_same is not None:
        others = is_same & ~itself[:batch, :batch]
        is_excluded = itself | others.repeat(2, 2)
    logits = logits.masked_fill(is_excluded, -torch.inf)  # never its own candidate
    if further is not None:
        more = views @ F.normalize(further.float(), dim=-1).T / temperature  # (2 * batch, further)
        if is_same_further is not None:
            more = more.masked_fill(is_same_further.repeat(2, 1), -torch.inf)
        logits = torch.cat([logits, more], dim=1)
    twins = torch.arange(2 * batch, device=logits.device).roll(batch)
    return F.cross_entropy(logits, twins)


def prefix_info_nce(
    left: Float[Tensor, "batch dim"],
    right: Float[Tensor, "batch dim"],
    *,
    dims: tuple[int, ...],
    temperature: float,
    is_same: Bool[Tensor, "batch batch"] | None = None,
    further: Float[Tensor, "further dim"] | None = None,
    is_same_further: Bool[Tensor, "batch further"] | None = None,
) -> Float[Tensor, ""]:
    """Sum of ``info_nce`` over prefixes of the vectors and the whole vectors, so that vectors can be cut to these lengths.

    Kusupati et al. 2022 ("Matryoshka Representation Learning"), section 3, with all weights 1. They use labels; here the positives are
    those of ``info_nce``.

    Args:
        left: One view of each text.
        right: The other view; row i is the twin of ``left[i]``.
        dims: Lengths of the prefixes; the whole vectors are always added once. Empty: ``info_nce``.
        temperature: As in ``info_nce``.
        is_same: As in ``info_nce``.
        further: As in ``info_nce``, cut like the views.
        is_same_further: As in ``info_nce``.

    Returns:
        The sum, in nats. Chance level is that of ``info_nce`` times the number of lengths.

    Raises:
        ShapeError: A prefix is longer than the vectors, or as ``info_nce``.
    """
    width = left.shape[1]
    if dims and max(dims) > width:
        raise ShapeError(f"a prefix of {max(dims)} numbers needs vectors of that length at least, got {tuple(left.shape)}")
    lengths = [width, *(dim for dim in dims if dim < width)]
    losses = [
        info_nce(
            left[:, :dim],
            right[:, :dim],
            temperature=temperature,
            is_same=is_same,
            further=None if further is None else further[:, :dim],
            is_same_further=is_same_further,
        )
        for dim in lengths
    ]
    total = losses[0]
    for loss in losses[1:]:
        total = total + loss
    return total


def paired_info_nce(
    left: Float[Tensor, "batch dim"],
    right: Float[Tensor, "batch dim"],
    *,
    temperature: float,
    is_same: Bool[Tensor, "batch batch"] | None = None,
) -> Float[Tensor, ""]:
    """InfoNCE between the two sides of pairs: contrast each left text with all right texts of the batch, and vice versa.

    Unlike ``info_nce``, texts of one side are not negatives of each other. This needs a quarter of the similarities, which suits large
    batches of pairs. The symmetric in-batch softmax of dual encoders (van den Oord et al. 2018, the loss of CLIP).

    Args:
        left: First text of each pair; vectors of any length, compared by cosine.
        right: Second text of each pair; row i belongs to ``left[i]``.
        temperature: Divides the cosines, above 0.
        is_same: True where left text i and right text j are the same text and not negatives. The diagonal is ignored.

    Returns:
        Mean over the 2 * batch texts, in nats. Chance level is log(batch).

    Raises:
        ShapeError: Fewer than two pairs leave no negatives.
    """
    if len(left) < 2:
        raise ShapeError(f"paired_info_nce needs at least 2 pairs for negatives, got {tuple(left.shape)}")
    logits = F.normalize(left.float(), dim=-1) @ F.normalize(right.float(), dim=-1).T / temperature  # (batch, batch)
    own = torch.arange(len(left), device=logits.device)
    if is_same is not None:
        logits = logits.masked_fill(is_same & (own[:, None] != own), -torch.inf)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def similarity_gap(vectors: Float[Tensor, "texts dim"], teacher: Float[Tensor, "texts teacher_dim"]) -> Float[Tensor, ""]:
    """Mean squared difference between the cosines of texts and the cosines given by a teacher.

    The teacher may have another dimension, since only similarities are compared, not the vectors.

    Args:
        vectors: One vector per text.
        teacher: The teacher's vectors of the same texts.

    Returns:
        Mean over all pairs of different rows, 0 to 4.

    Raises:
        ShapeError: Fewer than two texts leave no pair.
    """
    texts = len(vectors)
    if texts < 2:
        raise ShapeError(f"similarity_gap needs at least 2 texts to compare, got {tuple(vectors.shape)}")
    ours, theirs = F.normalize(vectors.float(), dim=-1), F.normalize(teacher.float(), dim=-1)
    gaps = (ours @ ours.T - theirs @ theirs.T).square()
    return (gaps.sum() - gaps.diagonal().sum()) / (texts * (texts - 1))

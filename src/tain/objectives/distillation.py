"""Distillation losses: match a teacher's logits, vectors or similarities."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tain.foundation.errors import ShapeError


def mixed_cross_entropy(
    student: Float[Tensor, "rows classes"],
    teacher: Float[Tensor, "rows classes"],
    labels: Int[Tensor, " rows"],
    *,
    scale: float,
    label_weight: float,
    is_taught: Bool[Tensor, " rows"] | None = None,
) -> Float[Tensor, ""]:
    """Weighted mix of the teacher's soft labels with given labels, where they exist.

    Kaliamoorthi et al. 2021 (pQRNN), teacher logit scaling: the teacher's part is the cross-entropy to its probabilities, in nats. Its
    gradient on the student's logits is the student's probabilities minus the teacher's, over the rows.

    Args:
        student: Logits.
        teacher: Logits of the same classes.
        labels: Gold classes; -1 for unlabelled rows, which use the teacher only.
        scale: Factor on the teacher's logits, above 0; values above 1 sharpen its distribution.
        label_weight: Weight of the gold label in labelled rows, 0 to 1; at 1 the teacher is used for unlabelled rows only.
        is_taught: False where the teacher has no output: labelled rows then use the gold label only, and unlabelled rows are skipped.

    Returns:
        Mean over the rows with a gold or teacher label; 0 if there is none.
    """
    if is_taught is None:
        is_taught = torch.ones_like(labels, dtype=torch.bool)
    is_given = labels >= 0
    soft = F.cross_entropy(student, (scale * teacher).softmax(dim=-1), reduction="none")
    hard = F.cross_entropy(student, labels.clamp(min=0), reduction="none")
    soft_weight = torch.where(is_given, 1 - label_weight, 1.0) * is_taught
    hard_weight = torch.where(is_taught, label_weight, 1.0) * is_given
    labelled = (is_given | is_taught).sum().clamp(min=1)
    return (soft_weight * soft + hard_weight * hard).sum() / labelled


def labelled_cross_entropy(student: Float[Tensor, "rows classes"], labels: Int[Tensor, " rows"]) -> Float[Tensor, ""]:
    """Cross-entropy with gold labels over the labelled rows (not -1), without a teacher; 0 if there is none."""
    return F.cross_entropy(student, labels, ignore_index=-1, reduction="sum") / (labels >= 0).sum().clamp(min=1)


def contrastive_distillation(
    student: Float[Tensor, "batch dim"],
    teacher: Float[Tensor, "batch dim"],
    *,
    temperature: float,
    is_same: Bool[Tensor, "batch batch"] | None = None,
) -> Float[Tensor, ""]:
    """Contrastive distillation: match each text's student vector with its teacher vector within the batch, in both directions.

    Args:
        student: Vectors of any length, compared by cosine.
        teacher: Row i is the vector of the same text.
        temperature: Divides the cosines, above 0.
        is_same: True where two rows hold the same text and are not negatives of each other. Symmetric; the diagonal is ignored.

    Returns:
        Mean over both directions, in nats. Chance level is log(batch).

    Raises:
        ShapeError: Fewer than two texts leave no negatives.
    """
    batch = len(student)
    if batch < 2:
        raise ShapeError(f"contrastive_distillation needs at least 2 texts for negatives, got {tuple(student.shape)}")
    logits = F.normalize(student, dim=-1) @ F.normalize(teacher, dim=-1).T / temperature
    own = torch.arange(batch, device=logits.device)
    if is_same is not None:
        logits = logits.masked_fill(is_same & (own[:, None] != own), -torch.inf)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def vector_matching(student: Float[Tensor, "batch dim"], teacher: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """One minus the mean cosine between the student and teacher vectors of a text.

    The contrastive loss alone ignores components shared by all vectors, so student vectors might not be searchable among teacher vectors.
    """
    return 1 - F.cosine_similarity(student, teacher, dim=-1).mean()


def similarity_matching(student: Float[Tensor, "batch dim"], teacher: Float[Tensor, "batch width"]) -> Float[Tensor, ""]:
    """Mean squared difference between the student's and the teacher's cosines over all pairs of different rows.

    The dimensions of the vectors may differ, since only similarities are compared.

    Raises:
        ShapeError: Fewer than two texts make no pair.
    """
    batch = len(student)
    if batch < 2:
        raise ShapeError(f"similarity_matching needs at least 2 texts for a pair, got {tuple(student.shape)}")
    ours, theirs = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    apart = ours @ ours.T - theirs @ theirs.T  # 0 on the diagonal
    return apart.square().sum() / (batch * (batch - 1))

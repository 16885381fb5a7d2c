"""Ranking losses: cross-entropy over candidates, and listwise distillation."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tain.foundation.errors import ShapeError


def candidate_cross_entropy(
    scores: Float[Tensor, "contexts candidates"],
    targets: Int[Tensor, " contexts"],
    *,
    is_excluded: Bool[Tensor, "contexts candidates"] | None = None,
) -> Float[Tensor, ""]:
    """Softmax cross-entropy of each context's correct candidate over all candidates that are not excluded.

    Humeau et al. 2020 (Poly-encoders), section 4: over the answers of the batch for bi- and poly-encoders (a row's target is its own
    answer), over a list for cross-encoders (the target comes first).

    Args:
        scores: Score of every candidate for every context.
        targets: Column of each context's correct candidate.
        is_excluded: True where a candidate is masked out of a context's softmax: another correct answer, or a duplicate of an
            earlier column. Never excludes a target.

    Returns:
        The mean over contexts, in nats. Chance level is log(candidates).

    Raises:
        ShapeError: There are fewer than two candidates.
    """
    if scores.shape[1] < 2:
        raise ShapeError(f"a ranking loss needs at least 2 candidates, got scores of shape {tuple(scores.shape)}")
    if is_excluded is not None:
        is_target = F.one_hot(targets, scores.shape[1]).bool()
        scores = scores.masked_fill(is_excluded & ~is_target, -torch.inf)
    return F.cross_entropy(scores.float(), targets)


def listwise_distillation(
    student: Float[Tensor, "contexts listed"], teacher: Float[Tensor, "contexts listed"], *, temperature: float = 1.0
) -> Float[Tensor, ""]:
    """Listwise distillation: KL divergence between the teacher's and the student's softmax over each context's list.

    Args:
        student: The student's scores of each context's listed candidates.
        teacher: The teacher's scores of the same; no gradient flows into them.
        temperature: Divides the teacher's scores, above 0; higher values give wrong candidates more weight.

    Returns:
        The mean over contexts, in nats; 0 if the two agree.

    Raises:
        ShapeError: There are fewer than two candidates.
    """
    if student.shape[1] < 2:
        raise ShapeError(f"listwise distillation needs lists of at least 2, got scores of shape {tuple(student.shape)}")
    wanted = (teacher.detach().float() / temperature).log_softmax(1)
    return F.kl_div(student.float().log_softmax(1), wanted, reduction="batchmean", log_target=True)

"""What turns token vectors into ranking scores: codes that attend over a context, and the dot products after them.

Humeau et al. 2020 (Poly-encoders), section 4. Attention is "basic": no projections, no division by the root of the width.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tain.batches.types import PackedTexts
from tain.foundation.choices import CodeKind
from tain.foundation.errors import ShapeError

PAPER_SCALE = 0.06  # of the released commands; the paper does not mention it
CODE_SPREAD = 0.3  # standard deviation of the attention logits of drawn codes


def rows_of_tokens(
    hidden: Float[Tensor, "tokens dim"], packed: PackedTexts
) -> tuple[Float[Tensor, "texts longest dim"], Bool[Tensor, "texts longest"]]:
    """Lay packed token vectors out in rows, in the order the caller gave the texts to ``pack``; True on real tokens."""
    lengths = packed.length_tensor()
    is_token = torch.arange(max(packed.lengths), device=hidden.device) < lengths[:, None]
    rows = hidden.new_zeros(*is_token.shape, hidden.shape[1])
    rows[is_token] = hidden[packed.owners < packed.texts]
    given = packed.order.argsort()
    return rows[given], is_token[given]


def attended(
    queries: Float[Tensor, "codes dim"],
    tokens: Float[Tensor, "texts longest dim"],
    is_token: Bool[Tensor, "texts longest"],
) -> Float[Tensor, "texts codes dim"]:
    """Let every code attend over a text's tokens: sum_j softmax_j(c_i . h_j) h_j (section 4.4).

    A code of zeros gives the mean of the tokens. A text without tokens gives the mean of its padding: zeros, from ``rows_of_tokens``.
    """
    logits = tokens @ queries.T  # (texts, longest, codes)
    # the smallest finite number, not -inf: a text without tokens would become nan, in half precision too
    logits = logits.masked_fill(~is_token[:, :, None], torch.finfo(logits.dtype).min)
    return logits.softmax(1).transpose(1, 2) @ tokens


def poly_scores(
    contexts: Float[Tensor, "contexts codes dim"],
    candidates: Float[Tensor, "candidates dim"],
    *,
    is_vector: Bool[Tensor, "contexts codes"] | None = None,
) -> Float[Tensor, "contexts candidates"]:
    """Score every candidate for every context, without a vector for each pair.

    With S_i = y_cand . y_ctxt^i the paper's score is sum_i softmax_i(S) S_i: the candidate's own context vector, over which the
    dot product would run, is never needed. The score lies between the mean and the maximum of S. One vector a context makes
    it the dot product of a bi-encoder.

    Args:
        contexts: Each context's vectors.
        candidates: One vector a candidate.
        is_vector: False where a context has fewer vectors than others; default: all count.
    """
    similarities = torch.einsum("cmd,nd->cmn", contexts, candidates)
    return mixed_scores(similarities, is_vector=None if is_vector is None else is_vector[:, :, None])


def mixed_scores(
    similarities: Float[Tensor, "contexts codes candidates"], *, is_vector: Bool[Tensor, "contexts codes 1"] | None = None
) -> Float[Tensor, "contexts candidates"]:
    """Mix each candidate's similarities to a context's vectors by their own softmax: sum_i softmax_i(S) S_i."""
    if similarities.shape[1] == 1 and is_vector is None:
        return similarities[:, 0]
    logits = similarities
    if is_vector is not None:
        logits = logits.masked_fill(~is_vector, torch.finfo(logits.dtype).min)
    return (logits.softmax(1) * similarities).sum(1)


class DualHead(nn.Module):
    """What a bi- or poly-encoder has beside its two towers: the output scale, and the codes.

    Args:
        kind: ``pooled`` gives a context one vector, its tower's own pooling (bi-encoder); the others as many as there are codes:
            ``learned`` codes attend over the tokens, ``first`` and ``last`` take that many outputs as they are, and
            ``last-and-first`` the last ones and the first (then one more than ``codes``).
        codes: How many; 1 for ``pooled``.
        dim: Width of the vectors.
        scale: All outputs of both towers are multiplied by this before anything else. The paper's released commands: 0.06.
        is_scale_learned: Train the scale, which acts as a learned temperature.
        normalize: Give every vector of a context or candidate length 1 before the scale, so that scores are mixed cosines.
        generator: Draws the codes; see ``draw_codes``.
    """

    def __init__(
        self,
        kind: CodeKind,
        *,
        codes: int,
        dim: int,
        scale: float,
        is_scale_learned: bool,
        normalize: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.kind: CodeKind = kind
        self.count = codes
        self.log_scale = nn.Parameter(torch.tensor(float(scale)).log(), requires_grad=is_scale_learned)
        self.codes = nn.Parameter(torch.rand(codes, dim, generator=generator)) if kind == "learned" else None

    @property
    def vectors(self) -> int:
        """Vectors a context, at most."""
        return self.count + (self.kind == "last-and-first")

    @property
    def scale(self) -> Tensor:
        return self.log_scale.float().exp()

    @torch.no_grad()
    def draw_codes(self, *, token_length: float, generator: torch.Generator) -> None:
        """Draw codes whose products with token vectors of this length (unscaled) vary by ``CODE_SPREAD``.

        So an untrained context's vectors lie near the mean of its tokens, and the ranker starts where a bi-encoder does. The
        released code draws them from [0, 1), where all are near one another and near the vector of ones; a popular port passes
        the deviation it wants as the mean.
        """
        assert self.codes is not None
        factor = 1.0 if self.normalize else self.scale.cpu()
        self.codes.copy_(torch.randn(self.codes.shape, generator=generator) * (CODE_SPREAD / (token_length * factor)))

    def candidates(self, pooled: Float[Tensor, "texts dim"]) -> Float[Tensor, "texts dim"]:
        """Scale pooled candidate vectors: red(T2(candidate))."""
        return self._scaled(pooled)

    def pooled_contexts(self, pooled: Float[Tensor, "texts dim"]) -> Float[Tensor, "texts 1 dim"]:
        """Scale pooled context vectors of the kind ``pooled``."""
        return self._scaled(pooled)[:, None]

    def contexts(
        self, tokens: Float[Tensor, "texts longest dim"], is_token: Bool[Tensor, "texts longest"]
    ) -> Float[Tensor, "texts vectors dim"]:
        """Make each context's vectors out of its token vectors; where ``is_vector`` says there is none they are zeros."""
        if self.codes is not None and self.normalize:  # what is attended to keeps its length, as a mean's tokens do
            return self._scaled(attended(self.codes.float(), tokens.float(), is_token))
        tokens = self._scaled(tokens)
        if self.codes is not None:
            return attended(self.codes.float(), tokens, is_token)
        if self.kind == "pooled":
            raise ShapeError("a head of the kind 'pooled' takes pooled vectors, not tokens")
        lengths = is_token.sum(1)
        indices = self._indices(lengths)
        is_vector = self.is_vector(lengths)
        taken = tokens.gather(1, indices.clamp(min=0, max=tokens.shape[1] - 1)[:, :, None].expand(-1, -1, tokens.shape[2]))
        return taken * is_vector[:, :, None]

    def _scaled(self, vectors: Tensor) -> Tensor:
        vectors = F.normalize(vectors.float(), dim=-1) if self.normalize else vectors.float()
        return vectors * self.scale

    def is_vector(self, lengths: Tensor) -> Bool[Tensor, "texts vectors"]:
        """Tell which of the vectors of contexts of so many tokens there are: a short context has fewer outputs than codes."""
        if self.kind in ("pooled", "learned"):
            return torch.ones(len(lengths), self.vectors, dtype=torch.bool, device=lengths.device)
        indices = self._indices(lengths)
        return (indices >= 0) & (indices < lengths[:, None])

    def _indices(self, lengths: Tensor) -> Tensor:
        """Which token each vector is: (texts, vectors); out of range where a context is too short."""
        steps = torch.arange(self.count, device=lengths.device)
        if self.kind == "first":
            return steps.expand(len(lengths), -1)
        last = lengths[:, None] - 1 - steps
        if self.kind == "last":
            return last
        first = torch.where(lengths > self.count, 0, -1)  # a short context's first output is among the last already
        return torch.cat([last, first[:, None]], dim=1)


class PairHead(nn.Module):
    """The cross-encoder's score: w . first(T([context; candidate])), section 4.5.

    Args:
        dim: Width of the token vectors.
        generator: Draws the weights.
    """

    def __init__(self, dim: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(dim, generator=generator))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, first: Float[Tensor, "pairs dim"]) -> Float[Tensor, " pairs"]:
        return first.float() @ self.weight.float() + self.bias.float()

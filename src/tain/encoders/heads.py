"""Ranking heads: codes that attend over a context, and the scores computed from context and candidate vectors.

Humeau et al. 2020 (Poly-encoders), section 4. Attention is "basic": no projections, no division by the root of the width.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tain.batches.types import PackedTexts
from tain.foundation.choices import CodeKind
from tain.foundation.errors import ShapeError

PAPER_SCALE = 0.06  # as in the released commands; the paper does not mention it
CODE_SPREAD = 0.3  # standard deviation of the attention logits of drawn codes


def rows_of_tokens(
    hidden: Float[Tensor, "tokens dim"], packed: PackedTexts
) -> tuple[Float[Tensor, "texts longest dim"], Bool[Tensor, "texts longest"]]:
    """Arrange packed token vectors in rows, in the order given to ``pack``; the mask is True on real tokens."""
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
    """Attention of every code over a text's tokens: sum_j softmax_j(c_i . h_j) h_j (section 4.4).

    A zero code gives the mean of the tokens. A text without tokens gives the mean of its padding, which is zero in ``rows_of_tokens``.
    """
    logits = tokens @ queries.T  # (texts, longest, codes)
    # the smallest finite number, not -inf: a text without tokens would become nan, also in half precision
    logits = logits.masked_fill(~is_token[:, :, None], torch.finfo(logits.dtype).min)
    return logits.softmax(1).transpose(1, 2) @ tokens


def poly_scores(
    contexts: Float[Tensor, "contexts codes dim"],
    candidates: Float[Tensor, "candidates dim"],
    *,
    is_vector: Bool[Tensor, "contexts codes"] | None = None,
) -> Float[Tensor, "contexts candidates"]:
    """Score every candidate for every context, without materializing a vector per pair.

    With S_i = y_cand . y_ctxt^i the paper's score is sum_i softmax_i(S) S_i, so the candidate-specific context vector is never
    needed. The score lies between the mean and the maximum of S. With one vector per context it is the dot product of a
    bi-encoder.

    Args:
        contexts: Each context's vectors.
        candidates: One vector per candidate.
        is_vector: False where a context has fewer vectors than others; default: all True.
    """
    similarities = torch.einsum("cmd,nd->cmn", contexts, candidates)
    return mixed_scores(similarities, is_vector=None if is_vector is None else is_vector[:, :, None])


def mixed_scores(
    similarities: Float[Tensor, "contexts codes candidates"], *, is_vector: Bool[Tensor, "contexts codes 1"] | None = None
) -> Float[Tensor, "contexts candidates"]:
    """Combine the similarities of each candidate to a context's vectors by their softmax: sum_i softmax_i(S) S_i."""
    if similarities.shape[1] == 1 and is_vector is None:
        return similarities[:, 0]
    logits = similarities
    if is_vector is not None:
        logits = logits.masked_fill(~is_vector, torch.finfo(logits.dtype).min)
    return (logits.softmax(1) * similarities).sum(1)


class DualHead(nn.Module):
    """Head of a bi- or poly-encoder: output scale and codes.

    Args:
        kind: ``pooled`` gives each context one vector, the pooling of its tower (bi-encoder); the others give one per code:
            ``learned`` codes attend over the tokens, ``first`` and ``last`` use that many token outputs directly, and
            ``last-and-first`` uses the last ones and the first one (one vector more than ``codes``).
        codes: Number of codes; 1 for ``pooled``.
        dim: Dimension of the vectors.
        scale: Factor on all outputs of both towers, applied first. The paper's released commands use 0.06.
        is_scale_learned: Train the scale, which acts as a learned temperature.
        normalize: Scale every context and candidate vector to length 1 before the output scale, so that scores are mixed cosines.
        generator: Random generator of the codes; see ``draw_codes``.
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
        """Largest number of vectors per context."""
        return self.count + (self.kind == "last-and-first")

    @property
    def scale(self) -> Tensor:
        return self.log_scale.float().exp()

    @torch.no_grad()
    def draw_codes(self, *, token_length: float, generator: torch.Generator) -> None:
        """Initialize the codes so that their products with token vectors of this length (unscaled) have standard deviation ``CODE_SPREAD``.

        An untrained context's vectors are then close to the mean of its tokens, and the ranker starts like a bi-encoder. The
        released code draws the codes from [0, 1), where they are all similar and close to the vector of ones; a popular port passes
        the intended deviation as the mean.
        """
        assert self.codes is not None
        factor = 1.0 if self.normalize else self.scale.cpu()
        self.codes.copy_(torch.randn(self.codes.shape, generator=generator) * (CODE_SPREAD / (token_length * factor)))

    def candidates(self, pooled: Float[Tensor, "texts dim"]) -> Float[Tensor, "texts dim"]:
        """Scale pooled candidate vectors: red(T2(candidate))."""
        return self._scaled(pooled)

    def pooled_contexts(self, pooled: Float[Tensor, "texts dim"]) -> Float[Tensor, "texts 1 dim"]:
        """Scale pooled context vectors, for the kind ``pooled``."""
        return self._scaled(pooled)[:, None]

    def contexts(
        self, tokens: Float[Tensor, "texts longest dim"], is_token: Bool[Tensor, "texts longest"]
    ) -> Float[Tensor, "texts vectors dim"]:
        """Compute each context's vectors from its token vectors; zeros where ``is_vector`` is False."""
        if self.codes is not None and self.normalize:  # attended vectors keep their length, as in a mean of tokens
            return self._scaled(attended(self.codes.float(), tokens.float(), is_token))
        tokens = self._scaled(tokens)
        if self.codes is not None:
            return attended(self.codes.float(), tokens, is_token)
        if self.kind == "pooled":
            raise ShapeError("a head of kind 'pooled' takes pooled vectors, not tokens")
        lengths = is_token.sum(1)
        indices = self._indices(lengths)
        is_vector = self.is_vector(lengths)
        taken = tokens.gather(1, indices.clamp(min=0, max=tokens.shape[1] - 1)[:, :, None].expand(-1, -1, tokens.shape[2]))
        return taken * is_vector[:, :, None]

    def _scaled(self, vectors: Tensor) -> Tensor:
        vectors = F.normalize(vectors.float(), dim=-1) if self.normalize else vectors.float()
        return vectors * self.scale

    def is_vector(self, lengths: Tensor) -> Bool[Tensor, "texts vectors"]:
        """Which vectors exist for contexts with the given number of tokens: a short context has fewer outputs than codes."""
        if self.kind in ("pooled", "learned"):
            return torch.ones(len(lengths), self.vectors, dtype=torch.bool, device=lengths.device)
        indices = self._indices(lengths)
        return (indices >= 0) & (indices < lengths[:, None])

    def _indices(self, lengths: Tensor) -> Tensor:
        """Token index of each vector (texts, vectors); out of range where a context is too short."""
        steps = torch.arange(self.count, device=lengths.device)
        if self.kind == "first":
            return steps.expand(len(lengths), -1)
        last = lengths[:, None] - 1 - steps
        if self.kind == "last":
            return last
        first = torch.where(lengths > self.count, 0, -1)  # in a short context the first output is already among the last ones
        return torch.cat([last, first[:, None]], dim=1)


class PairHead(nn.Module):
    """Score head of a cross-encoder: w . first(T([context; candidate])), section 4.5.

    Args:
        dim: Dimension of the token vectors.
        generator: Random generator of the weights.
    """

    def __init__(self, dim: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(dim, generator=generator))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, first: Float[Tensor, "pairs dim"]) -> Float[Tensor, " pairs"]:
        return first.float() @ self.weight.float() + self.bias.float()

"""Masking for masked language models: choose positions and corrupt their tokens."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tain.foundation.errors import ShapeError


@dataclass(frozen=True)
class MaskedTokens:
    """A masked batch.

    Attributes:
        ids: Corrupted input ids.
        indices: Positions to predict, as flat indices into ``ids``, ascending.
        targets: The original ids at these positions.
    """

    ids: Int[Tensor, "*shape"]
    indices: Int[Tensor, " masked"]
    targets: Int[Tensor, " masked"]


def mask_at_random(
    ids: Int[Tensor, "*shape"],
    *,
    is_maskable: Bool[Tensor, "*shape"],
    rate: float,
    mask_id: int,
    vocabulary: int,
    first_ordinary_id: int = 0,
    generator: torch.Generator,
    mask_share: float = 0.8,
    random_share: float = 0.1,
) -> MaskedTokens:
    """Choose a fixed number of positions and corrupt them as BERT does: 80% mask, 10% random token, 10% unchanged.

    The number is fixed rather than the probability, so that all batches cost the same and batch losses vary less.

    Args:
        ids: Token ids of any shape.
        is_maskable: False on special tokens and padding.
        rate: Share of the maskable positions to choose, 0 to 1; at least one position is chosen.
        mask_id: The mask token's id.
        vocabulary: Random tokens are drawn below this id.
        first_ordinary_id: Lowest id of random tokens; special tokens usually come before.
        generator: Random generator of positions and tokens.
        mask_share: Share of the chosen positions that get the mask token.
        random_share: Share that gets a random token; the rest is unchanged.

    Raises:
        ShapeError: No position is maskable.
    """
    maskable = _count(is_maskable)
    draws = torch.rand(ids.numel(), generator=generator, device=ids.device).masked_fill_(~is_maskable.flatten(), 2.0)
    indices = draws.topk(max(1, round(rate * maskable)), largest=False).indices.sort().values
    return corrupted(
        ids,
        indices,
        mask_id=mask_id,
        vocabulary=vocabulary,
        first_ordinary_id=first_ordinary_id,
        generator=generator,
        mask_share=mask_share,
        random_share=random_share,
    )


def indices_of_each_text(
    is_maskable: Bool[Tensor, " tokens"],
    *,
    owners: Int[Tensor, " tokens"],
    rate: float,
    generator: torch.Generator,
) -> Int[Tensor, " masked"]:
    """Choose positions at random, with a share for every text.

    A text with n maskable positions gets ``rate * n`` of them, randomly rounded down or up so that the mean is exact, but at
    least one. The roundings of neighbouring texts compensate each other: the total is ``rate`` times all positions, rounded,
    plus what the minimum of one adds.

    Args:
        is_maskable: False on special tokens and padding.
        owners: Text index of each token, from 0.
        rate: Share of a text's maskable positions to choose, 0 to 1.
        generator: Random generator of positions and roundings.

    Returns:
        Flat indices, ascending. A text without maskable positions has none.

    Raises:
        ShapeError: No position is maskable.
    """
    _count(is_maskable)
    indices = is_maskable.nonzero().flatten()
    owner = owners[indices]
    sizes = torch.bincount(owner)
    totals = (rate * sizes.double()).cumsum(0) + torch.rand((), generator=generator, dtype=torch.float64)
    wanted = totals.floor().diff(prepend=totals.new_zeros(1)).long()
    wanted = torch.minimum(wanted.clamp(min=1), sizes)
    order = torch.rand(len(indices), generator=generator).argsort()
    order = order[owner[order].argsort(stable=True)]  # grouped by text, each in random order
    within = torch.arange(len(indices)) - (sizes.cumsum(0) - sizes)[owner[order]]
    return indices[order[within < wanted[owner[order]]]].sort().values


def corrupted(
    ids: Int[Tensor, "*shape"],
    indices: Int[Tensor, " masked"],
    *,
    mask_id: int,
    vocabulary: int,
    first_ordinary_id: int = 0,
    generator: torch.Generator,
    mask_share: float = 0.8,
    random_share: float = 0.1,
) -> MaskedTokens:
    """Replace the given positions by the mask token, a random token, or (the rest) leave them. Arguments as in ``mask_at_random``."""
    flat = ids.flatten()
    targets = flat[indices]
    kind = torch.rand(len(indices), generator=generator, device=flat.device)
    random_ids = torch.randint(first_ordinary_id, vocabulary, (len(indices),), generator=generator, device=flat.device)
    shown = torch.where(kind < mask_share, mask_id, torch.where(kind < mask_share + random_share, random_ids, targets))
    seen = flat.clone()
    seen[indices] = shown
    return MaskedTokens(seen.view(ids.shape), indices, targets)


def masked_rows(mask: MaskedTokens, rows: slice) -> MaskedTokens:
    """Consecutive rows of a masked batch with the same corruption, for a process that computes a share of it.

    Args:
        mask: The batch, of shape (rows, tokens).
        rows: The rows, with both ends given.
    """
    tokens = mask.ids.shape[1]
    is_here = (mask.indices >= rows.start * tokens) & (mask.indices < rows.stop * tokens)
    return MaskedTokens(mask.ids[rows], mask.indices[is_here] - rows.start * tokens, mask.targets[is_here])


def disjoint_indices(
    draws: Float[Tensor, "rows tokens"],
    *,
    is_maskable: Bool[Tensor, "rows tokens"],
    parts: int,
    rate: float,
    begins_unit: Bool[Tensor, "rows tokens"] | None = None,
    turns: Float[Tensor, " rows"] | None = None,
    each_row: bool = False,
    may_be_empty: bool = False,
) -> list[Int[Tensor, " masked"]]:
    """Split a random order of the maskable positions into disjoint parts: the masks of fully-explored masking.

    Zheng et al. 2020 (arXiv 2010.06040). With ``parts * rate == 1`` every maskable position is in exactly one part. With single
    tokens, part sizes differ by at most one; a word or span across a border goes entirely to the side of its middle, so a part
    can be off by at most the longest unit. With one part this is a mask of (nearly) fixed size.

    Args:
        draws: Uniform random numbers that define the order: positions (or units, by their first position) sorted by ascending draw.
        is_maskable: False on special tokens and padding.
        parts: Number of masks, K in the paper.
        rate: Share of the maskable positions per mask.
        begins_unit: True where a unit that is masked as a whole begins; None masks single tokens.
        turns: Uniform random numbers that rotate each row's order before it is split (the first one rotates the batch's, unless
            ``each_row``). Not needed for single tokens; without it a long unit would be in the outer parts less often.
        each_row: Order and split every row separately, so that a row's parts depend on its own draws only; otherwise the
            batch is ordered and split as a whole.
        may_be_empty: Allow parts without positions.

    Returns:
        Flat indices per part, ascending.

    Raises:
        ShapeError: The parts hold more than all positions, or a part would be empty.
    """
    if parts * rate > 1 + 1e-9:
        raise ShapeError(f"{parts} parts of {rate:.0%} each are more than the whole text")
    maskable = _count(is_maskable)
    indices = is_maskable.flatten().nonzero().flatten()
    row = indices // is_maskable.shape[1] if each_row else torch.zeros_like(indices)
    begins = torch.ones_like(indices, dtype=torch.bool) if begins_unit is None else begins_unit.flatten()[indices]
    unit = begins.cumsum(0) - 1
    order = draws.flatten()[indices][begins][unit].argsort(stable=True)  # stable: positions of a unit stay together
    order = order[row[order].argsort(stable=True)]
    ordered_row, ordered_unit = row[order], unit[order]
    row_sizes = torch.bincount(row)
    middle = _unit_middles(ordered_unit) - (row_sizes.cumsum(0) - row_sizes)[ordered_row]  # relative to the start of the row
    if turns is not None:
        middle = (middle + (turns[: len(row_sizes)] * row_sizes).floor()[ordered_row]) % row_sizes[ordered_row]
    borders = (torch.arange(1, parts + 1, device=row.device) * (rate * row_sizes.double())[:, None]).round()  # (rows, parts)
    part = (middle[:, None] >= borders[ordered_row]).sum(1)
    found = [indices[order[part == number]].sort().values for number in range(parts)]
    if not may_be_empty and not all(map(len, found)):
        raise ShapeError(f"{maskable} maskable positions cannot be split into {parts} parts of {rate:.0%}: one would be empty")
    return found


def word_beginnings(
    ids: Int[Tensor, "rows tokens"], *, is_maskable: Bool[Tensor, "rows tokens"], continues_word: Bool[Tensor, " vocabulary"]
) -> Bool[Tensor, "rows tokens"]:
    """Mark the beginnings of words: every token that is not a continuation, and every token after an unmaskable one.

    Args:
        ids: Token ids.
        is_maskable: False on special tokens and padding.
        continues_word: For each id of the vocabulary, whether it continues the word before it.
    """
    return is_maskable & (~continues_word[ids] | _after_border(is_maskable))


def span_beginnings(
    phases: Int[Tensor, " rows"], *, is_maskable: Bool[Tensor, "rows tokens"], span_tokens: int
) -> Bool[Tensor, "rows tokens"]:
    """Split rows into spans of ``span_tokens`` tokens; spans are shorter at unmaskable tokens and row ends.

    Args:
        phases: Offset of the first split in each row, 0 to below ``span_tokens``.
        is_maskable: False on special tokens and padding, which no span crosses.
        span_tokens: Length of a span.
    """
    steps = torch.arange(is_maskable.shape[1], device=phases.device)
    return is_maskable & (((steps + phases[:, None]) % span_tokens == 0) | _after_border(is_maskable))


def _count(is_maskable: Tensor) -> int:
    maskable = int(is_maskable.sum())
    if maskable == 0:
        raise ShapeError(f"no token of this batch may be masked: all {is_maskable.numel()} are special tokens or padding")
    return maskable


def _after_border(is_maskable: Tensor) -> Tensor:
    """True at a row's first position and after every unmaskable position."""
    before = torch.zeros_like(is_maskable)
    before[:, 1:] = is_maskable[:, :-1]
    return ~before


def _unit_middles(ordered_unit: Tensor) -> Tensor:
    """Middle of each position's unit, counted in positions from the start of the order; a unit's positions are contiguous in it."""
    lengths = torch.bincount(ordered_unit)
    steps = torch.arange(len(ordered_unit), device=ordered_unit.device)
    begins = torch.full_like(lengths, len(ordered_unit)).scatter_reduce_(0, ordered_unit, steps, "amin")
    return (begins + lengths / 2)[ordered_unit]

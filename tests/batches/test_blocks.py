import numpy as np
import torch

from tain.batches.blocks import BlockOrder

STREAM = np.arange(100, 1125, dtype=np.uint16)  # 1025 tokens, each once


def blocks(*, seed: int = 3, block_tokens: int = 12, batch_blocks: int = 4) -> BlockOrder:
    return BlockOrder(STREAM, block_tokens=block_tokens, batch_blocks=batch_blocks, first_id=2, last_id=3, seed=seed)


def epoch(order: BlockOrder, number: int) -> torch.Tensor:
    steps = range(number * order.steps_per_epoch, (number + 1) * order.steps_per_epoch)
    return torch.cat([order.batch(step) for step in steps])


def test_blocks_are_full_rows_between_the_two_special_tokens():
    batch = blocks().batch(0)
    assert batch.shape == (4, 12)
    assert batch.dtype == torch.long
    assert (batch[:, 0] == 2).all()
    assert (batch[:, -1] == 3).all()
    assert (batch[:, 1:-1].diff(dim=1) == 1).all()  # neighbours in the stream are neighbours here


def test_an_epoch_reads_a_token_at_most_once_and_nearly_all_of_them():
    order = blocks()
    tokens = epoch(order, 0)[:, 1:-1].flatten()
    assert len(tokens.unique()) == len(tokens)
    # what does not fill a block or a batch is left out, and one block is room for the phase
    assert len(tokens) >= len(STREAM) - 10 * (4 + 2)


def test_each_epoch_has_its_own_order_and_phase():
    order = blocks()
    first, second = epoch(order, 0), epoch(order, 1)
    assert not torch.equal(first, second)
    phases = {int(epoch(order, number)[:, 1].min()) % 10 for number in range(6)}
    assert len(phases) > 2


def test_a_step_depends_on_seed_and_step_alone():
    forwards, backwards = blocks(), blocks()
    steps = range(3 * forwards.steps_per_epoch)
    ahead = [forwards.batch(step) for step in steps]
    behind = [backwards.batch(step) for step in reversed(steps)][::-1]
    assert all(torch.equal(left, right) for left, right in zip(ahead, behind, strict=True))
    assert not torch.equal(blocks(seed=4).batch(0), ahead[0])


def test_blocks_can_be_asked_for_by_their_starts():
    assert blocks().blocks_at(np.array([0, 1015])).tolist() == [[2, *range(100, 110), 3], [2, *range(1115, 1125), 3]]

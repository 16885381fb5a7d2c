import numpy as np

from tain.batches.order import ShuffledOrder, step_seed


def test_an_epoch_sees_every_text_once_but_for_the_last_incomplete_batch():
    order = ShuffledOrder(23, batch_texts=5, seed=1)
    assert order.steps_per_epoch == 4
    seen = np.concatenate([order.batch(step) for step in range(4)])
    assert len(seen) == len(set(seen)) == 20
    assert set(seen) <= set(range(23))


def test_each_epoch_has_another_order_so_that_no_text_is_always_left_out():
    order = ShuffledOrder(23, batch_texts=5, seed=1)
    epochs = [tuple(np.concatenate([order.batch(4 * epoch + step) for step in range(4)])) for epoch in range(8)]
    assert len(set(epochs)) == 8
    assert {text for epoch in epochs for text in epoch} == set(range(23))


def test_a_step_depends_on_seed_and_step_alone():
    forwards, backwards = (ShuffledOrder(23, batch_texts=5, seed=1) for _ in range(2))
    ahead = [forwards.batch(step).tolist() for step in range(20)]
    behind = [backwards.batch(step).tolist() for step in reversed(range(20))][::-1]
    assert ahead == behind
    assert ShuffledOrder(23, batch_texts=5, seed=2).batch(0).tolist() != ahead[0]


def test_one_batch_can_hold_all_texts():
    assert sorted(ShuffledOrder(6, batch_texts=6, seed=0).batch(9)) == list(range(6))


def test_seeds_of_steps_parts_and_runs_all_differ():
    seeds = {step_seed(seed, step, part) for seed in range(5) for step in range(50) for part in range(4)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)  # what torch.manual_seed takes
    assert step_seed(3, 7) == step_seed(3, 7, 0)

import torch

from tain.inspection.rollout import rollout


def test_rows_sum_to_one_and_equal_the_plain_product(generator: torch.Generator):
    matrices = torch.rand(4, 6, 6, generator=generator, dtype=torch.float64)
    found = rollout(matrices)
    torch.testing.assert_close(found.sum(-1), torch.ones(4, 6, dtype=torch.float64))
    expected = torch.eye(6, dtype=torch.float64)
    for layer in range(4):
        share = torch.stack([row / row.sum() for row in matrices[layer]])
        expected = share @ expected
        torch.testing.assert_close(found[layer], expected)


def test_where_nothing_is_mixed_every_token_stays_itself():
    diagonal = torch.diag_embed(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    assert torch.equal(rollout(diagonal), torch.eye(3).expand(2, 3, 3))


def test_a_row_without_any_norm_keeps_its_token():
    matrices = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
    assert torch.equal(rollout(matrices), torch.tensor([[[1.0, 0.0], [0.5, 0.5]]]))


def test_even_attention_forgets_everything_at_once(generator: torch.Generator):
    matrices = torch.rand(2, 5, 5, generator=generator)
    matrices[1] = 0.2
    found = rollout(matrices)[1]
    torch.testing.assert_close(found, found[:1].expand(5, 5))

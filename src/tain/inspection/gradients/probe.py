"""Measure the gradient variance of a masked language model on a text corpus."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tain.batches.blocks import BlockOrder
from tain.batches.order import step_seed
from tain.batches.shards import Sources, token_batches
from tain.batches.tokenizing import opening_id, separator_id
from tain.encoders.masked_lm import MaskedLanguageModel
from tain.foundation.choices import wrong_seed
from tain.foundation.errors import UserError, refuse_all
from tain.foundation.machine import choose_device
from tain.foundation.progress import Progress
from tain.inspection.gradients.report import GradientReport
from tain.inspection.gradients.variance import SignedFold, gradient_variance, measure_products
from tain.models.embedder import max_length
from tain.models.masked_lm import load_masked_lm
from tain.models.unknown_tokens import check_known
from tain.objectives.masked_lm import masked_cross_entropy
from tain.recipes.pretrain.objectives import Masker

_FEWEST_BLOCKS = 8  # with four, a 95% interval covers the true value in 93 of 100 cases, with two never
_READ_TEXTS = 512  # texts checked for unknown characters
_READ_TOKENS = 2_000_000  # blocks are drawn from the beginning of the texts: a few seconds of tokenization


def probe_gradients(
    model: str | Path,
    texts: Sequence[str | Path],
    *,
    column: str | None = None,
    masking_rate: float = 0.15,
    masks: int | None = None,
    blocks: int = 64,
    block_tokens: int = 128,
    rounds: int = 2,
    elements: int = 2**20,
    resamples: int = 1000,
    seed: int = 13,
    device: str | None = None,
    trust_remote_code: bool = False,
    progress: Progress | bool | None = None,
) -> GradientReport:
    """Measure how much of a masked language model's gradient noise comes from masks and how much from texts.

    Args:
        model: A masked language model: a folder, a hub name or ``tain-mini``.
        texts: Files as accepted by ``read_texts``. Blocks are drawn at random from the first two million tokens.
        column: Column of the texts, for tables.
        masking_rate: Share of a block in a mask; corrupted as in training, 80/10/10.
        masks: Disjoint masks to compare with independent ones; default: as many as fit, floor(1 / masking_rate).
        blocks: Number of text blocks.
        block_tokens: Length of a block, including special tokens.
        rounds: Independent partitions per block; each needs ``masks + 4`` gradients.
        elements: Longer gradients are folded to this length before taking products.
        resamples: Bootstrap resamples per interval.
        seed: Seed of blocks, masks, corruption and signs.
        device: Torch device name; default: a GPU if available.
        trust_remote_code: Allow Python code from the model's folder.
        progress: Receives progress updates.

    Raises:
        UserError: Settings, texts or model cannot work.
    """
    progress = Progress.resolve(progress)
    _refuse_settings(masking_rate=masking_rate, blocks=blocks, block_tokens=block_tokens, elements=elements, resamples=resamples, seed=seed)
    loaded = load_masked_lm(model, trust_remote_code=trust_remote_code)
    if loaded.new_head:
        raise UserError(
            f"model {str(model)!r} has no prediction head, and gradients of a random head are meaningless: give a masked language model"
        )
    positions = max_length(loaded.model, loaded.tokenizer)
    if block_tokens > positions:
        raise UserError(
            f"block_tokens is {block_tokens}, but model {str(model)!r} reads at most {positions} tokens: give {positions} or fewer"
        )
    sources = Sources(tuple(map(str, texts)), column)
    check_known(loaded, list(islice(sources.texts(), _READ_TEXTS)), progress=progress)
    rows = _drawn_blocks(sources, loaded.tokenizer, blocks=blocks, block_tokens=block_tokens, seed=seed)
    masker = Masker(loaded.tokenizer, rate=masking_rate)
    torch_device = choose_device(device)
    network = MaskedLanguageModel(loaded.model.to(torch_device).eval())
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    length = sum(parameter.numel() for parameter in parameters)
    fold = SignedFold(length, elements, generator=torch.Generator().manual_seed(step_seed(seed, 0, 15)))
    corruption = torch.Generator().manual_seed(step_seed(seed, 0, 16))

    def gradient(number: int, indices: np.ndarray) -> Tensor:
        batch = masker.at(rows[number][None], torch.from_numpy(np.sort(indices)), generator=corruption)
        loss = masked_cross_entropy(network(batch.ids.to(torch_device), batch.indices.to(torch_device)), batch.targets.to(torch_device))
        return fold(torch.autograd.grad(loss, parameters, materialize_grads=True))

    products = measure_products(
        gradient,
        [masker.is_maskable(row).nonzero().flatten().numpy() for row in rows],
        masking_rate=masking_rate,
        disjoint=int(1 / masking_rate + 1e-9) if masks is None else masks,
        rounds=rounds,
        rng=np.random.default_rng([seed, 17]),
        progress=progress,
    )
    found = gradient_variance(products, resamples=resamples, rng=np.random.default_rng([seed, 18]))
    return GradientReport(str(model), block_tokens, length, fold.size, seed, found)


def _drawn_blocks(sources: Sources, tokenizer: object, *, blocks: int, block_tokens: int, seed: int) -> Int[Tensor, "blocks tokens"]:
    pieces, tokens = [], 0
    for ids, _, _ in token_batches(sources.sentences(), tokenizer):
        pieces.append(ids)
        tokens += len(ids)
        if tokens >= _READ_TOKENS:
            break
    order = BlockOrder(
        np.concatenate(pieces),
        block_tokens=block_tokens,
        batch_blocks=1,
        first_id=opening_id(tokenizer),
        last_id=separator_id(tokenizer),
        seed=seed,
    )
    room = tokens // order.inner
    if room < blocks:
        raise UserError(
            f"the texts have {tokens:,} tokens, which make {room} blocks of {block_tokens}, fewer than {blocks}: "
            "give more text, or lower --blocks or --block-tokens"
        )
    chosen = np.random.default_rng([seed, 19]).choice(room, size=blocks, replace=False)
    return order.blocks_at(chosen * order.inner)


def _refuse_settings(*, masking_rate: float, blocks: int, block_tokens: int, elements: int, resamples: int, seed: int) -> None:
    problems = wrong_seed(seed)
    if not 0 < masking_rate <= 0.5:
        problems.append(f"masking_rate is {masking_rate:g}: give a share above 0 and up to 0.5, or no two masks of a text are disjoint")
    if blocks < _FEWEST_BLOCKS:
        problems.append(f"blocks is {blocks}, but fewer than {_FEWEST_BLOCKS} give no reliable interval: give 64")
    if block_tokens < 8:
        problems.append(f"block_tokens is {block_tokens}, too little context to predict from: give 8 or more (128)")
    if elements < 1024:
        problems.append(f"elements is {elements}, too few for accurate products: give 1024 or more (1048576)")
    if resamples < 100:
        problems.append(f"resamples is {resamples}, too few for the ends of an interval: give 100 or more (1000)")
    refuse_all(problems)

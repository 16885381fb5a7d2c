"""Set up an encoder for its recipe before training: limits, layers, token weights and token vectors."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tain.batches.tokenizing import tokenise_once
from tain.encoders.depth import drop_context, install_token_vectors, scale_residuals
from tain.encoders.joining import refuse_unjoinable
from tain.encoders.pooling import sif_weights
from tain.encoders.transformer import TransformerEncoder
from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.models.masked_lm import load_masked_lm
from tain.recipes.mirror.config import ResolvedMirrorConfig
from tain.recipes.mirror.data import TrainingSet
from tain.recipes.mirror.static import FITTED_TEXTS, TokenVectors, combined_with_embeddings, taken, train_token_vectors

_PAIRS_A_SECOND, _TEACHERS_SHARE = 7000, 0.15  # of token vectors on one core, and of a budget
_BAG_TOKENS = 128  # a text of token vectors is read so far at least: a bag of words costs little


def refuse_unfit(config: ResolvedMirrorConfig, embedder: Embedder, data: TrainingSet) -> None:
    """Refuse settings that the model or the texts cannot meet.

    Raises:
        UserError: The length limit is beyond the model's, the prompt leaves no room for a text, the model cannot be joined or its
            text decoded, a prefix is no shorter than its vectors, or there are too few texts to whiten.
    """
    longest, dim = embedder.max_tokens, embedder.encoder.dim
    if config.max_tokens > longest:
        raise UserError(f"max_tokens is {config.max_tokens}, but the model reads {longest} at most: give {longest} or fewer")
    # room for a token of the text, and for the last special token
    if config.prompt is not None and (taken := embedder.prompt_tokens(config.prompt)) > config.max_tokens - 2:
        raise UserError(
            f"prompt takes {taken} of {config.max_tokens} tokens, which leaves none for a text: raise --max-tokens, or shorten it"
        )
    embedded = int(embedder.encoder.model.get_input_embeddings().weight.shape[1])
    if config.decoder_weight and embedded != dim:
        raise UserError(
            f"decoder_weight needs token embeddings as wide as the vectors, but they have {embedded} and {dim} numbers: leave it out"
        )
    if config.join:
        refuse_unjoinable(embedder.encoder.model)
    if config.prefix_dims and config.prefix_dims[-1] >= dim:
        raise UserError(f"dims is {config.dims!r}, but the vectors have {dim} numbers: give shorter prefixes only")
    if config.join and not config.whiten and len(data.own_texts) <= dim:
        raise UserError(
            f"there are {len(data.own_texts):,} texts to weight the two parts of a joined encoder by, but vectors of {dim} dimensions need more: "
            "give many more texts, or --no-join"
        )
    if config.whiten and len(data.own_texts) <= dim:
        raise UserError(
            f"there are {len(data.own_texts):,} texts to fit the whitening to, but vectors of {dim} dimensions need more: "
            "give many more texts, or --whiten 0"
        )


def prediction_model(name: str | Path, config: ResolvedMirrorConfig) -> Any:
    """Load a model with its prediction head, if the settings need the head; None otherwise.

    Raises:
        UserError: The model has no such head.
    """
    asking = [setting for setting in ("mlm_weight", "decoder_weight") if getattr(config, setting)]
    if not asking:
        return None
    loaded = load_masked_lm(name, trust_remote_code=config.trust_remote_code)
    if loaded.new_head:
        raise UserError(
            f"{' and '.join(asking)} needs the model's prediction head, but {str(name)!r} has none ({loaded.new_head[0]} is missing): "
            "give a masked language model, or leave it out"
        )
    return loaded.model


def set_limits(encoder: TransformerEncoder, config: ResolvedMirrorConfig) -> None:
    """Give an encoder the settings' pooling and length limit."""
    encoder.pooling = config.pooling
    encoder.padded_to = config.max_tokens


def set_up(embedder: Embedder, data: TrainingSet, config: ResolvedMirrorConfig, *, progress: Progress) -> TokenVectors | None:
    """Set up layers and token weights as the recipe needs them.

    Returns:
        Token vectors, trained from the embeddings before training; None if the recipe has none.
    """
    encoder = embedder.encoder
    vectors = _token_vectors(embedder, data, config, progress=progress) if config.trains_token_vectors else None
    is_static = not config.trains and not config.join
    if is_static:
        drop_context(encoder.model)
    elif config.residual_scale < 1:
        scale_residuals(encoder.model, config.residual_scale)
    encoder.token_weights = None
    if config.token_weights == "sif":
        own = tokenise_once(embedder.tokenizer, data.own_texts, max_tokens=config.max_tokens)
        counts = torch.bincount(torch.from_numpy(own.ids).long(), minlength=int(encoder.model.config.vocab_size))
        encoder.token_weights = sif_weights(counts, smoothing=config.sif_smoothing).to(encoder.device)
    if vectors is not None and config.level == "word" and not config.anchor:
        embeddings = encoder.model.get_input_embeddings().weight.detach().cpu()
        vectors = replace(vectors, table=combined_with_embeddings(vectors, embeddings, special=_special_ids(embedder)))
    if is_static and vectors is not None:
        encoder.token_weights = install_token_vectors(encoder.model, vectors.table.to(encoder.device))
    return vectors


def weight_rms(encoder: torch.nn.Module) -> float:
    """Root mean square of the hidden layers' matrices, each with equal weight."""
    tables = {id(module.weight) for module in encoder.modules() if isinstance(module, torch.nn.Embedding)}
    matrices = [
        weight.detach()
        for name, weight in encoder.named_parameters()
        if weight.ndim == 2 and id(weight) not in tables and "pooler." not in name  # unused by our pooling
    ]
    return float(np.mean([matrix.float().square().mean().sqrt().item() for matrix in matrices]))


def _special_ids(embedder: Embedder) -> list[int]:
    """Ids of special tokens, without the unknown token, which stands for a word."""
    return [token for token in embedder.tokenizer.all_special_ids if token != embedder.tokenizer.unk_token_id]


def _token_vectors(embedder: Embedder, data: TrainingSet, config: ResolvedMirrorConfig, *, progress: Progress) -> TokenVectors:
    """Train token vectors on all pairs of neighbours; if all positives are made of single texts, only whiten them."""
    pairs = data.pool or list(zip(data.left, data.right, strict=True))
    numbers: dict[str, int] = {}  # most sentences are in two pairs, and are tokenised once
    sides = [np.fromiter((numbers.setdefault(pair[side], len(numbers)) for pair in pairs), np.int64, len(pairs)) for side in (0, 1)]
    texts = tokenise_once(embedder.tokenizer, list(numbers), max_tokens=max(config.max_tokens, _BAG_TOKENS))
    left, right = (taken(texts, side) for side in sides)
    most = 0 if data.is_of_single_texts and not data.pool else config.anchor_pairs
    if config.budget_s is not None:
        most = min(most, int(_PAIRS_A_SECOND * _TEACHERS_SHARE * config.budget_s))
    table = embedder.encoder.model.get_input_embeddings().weight.detach().cpu()
    special = _special_ids(embedder)
    # few pairs have too few texts to whiten and weight by
    more = data.own_texts[:FITTED_TEXTS] if len(left) < FITTED_TEXTS else []
    own = tokenise_once(embedder.tokenizer, more, max_tokens=max(config.max_tokens, _BAG_TOKENS)) if more else None
    return train_token_vectors(table, left, right, special=special, max_pairs=most, seed=config.seed, progress=progress, own=own)

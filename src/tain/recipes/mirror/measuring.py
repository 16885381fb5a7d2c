"""Label-free figures of an encoder before and after training, and of word overlap on the same held-out texts."""

from contextlib import AbstractContextManager

import numpy as np
import torch

from tain.evaluation.baselines import Lexical
from tain.evaluation.label_free import LabelFreeReport, label_free_report
from tain.models.embedder import Embedder
from tain.recipes.mirror.config import ResolvedMirrorConfig
from tain.recipes.mirror.data import TrainingSet
from tain.recipes.mirror.sizes import SizeFigures, figures_by_size

_MAX_TEXTS = 500


def held_out_report(
    embedder: Embedder, data: TrainingSet, config: ResolvedMirrorConfig, *, pooling: str, dtype: torch.dtype
) -> LabelFreeReport | None:
    """Measure an encoder on the held-out texts, pooled as a saved encoder is; None with fewer than two."""
    if len(data.held_left) < 2:
        return None
    encoder = embedder.encoder
    trained_pooling, encoder.pooling = encoder.pooling, saved_pooling(pooling)
    # both reports use the training's data type: in float32 the first report would take twice as long
    with computing(encoder.device, dtype):
        report = label_free_report(
            embedder,
            data.held_left,
            twins=data.held_right if data.is_paired else None,
            level=config.level,
            max_texts=_MAX_TEXTS,
            rng=np.random.default_rng([config.seed, 2]),
        )
    encoder.pooling = trained_pooling
    return report


def held_out_sizes(
    embedder: Embedder, data: TrainingSet, config: ResolvedMirrorConfig, *, pooling: str, dtype: torch.dtype
) -> list[SizeFigures]:
    """Measure every trained prefix length and the whole vectors on the held-out texts; empty without ``dims`` or such texts."""
    if not config.prefix_dims or len(data.held_left) < 2:
        return []
    encoder = embedder.encoder
    trained_pooling, encoder.pooling = encoder.pooling, saved_pooling(pooling)
    with computing(encoder.device, dtype):
        found = figures_by_size(embedder, data.held_left, (*config.prefix_dims, encoder.dim), level=config.level)
    encoder.pooling = trained_pooling
    return found


def lexical_report(data: TrainingSet, config: ResolvedMirrorConfig) -> LabelFreeReport | None:
    """Measure the word-overlap baseline on the texts of ``held_out_report``."""
    if len(data.held_left) < 2:
        return None
    rng = np.random.default_rng([config.seed, 2])
    return label_free_report(Lexical(), data.held_left, level=config.level, max_texts=_MAX_TEXTS, rng=rng)


def saved_pooling(pooling: str) -> str:
    """Pooling of the saved encoder; sentence-transformers has no mean over padding."""
    return "mean" if pooling == "mean-with-padding" else pooling


def computing(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Encode in the data type of the training."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)

"""Evaluate masked language models by their loss on held-out text, with every token predicted once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tain.evaluation.metrics import Interval, percentile_interval, resample_counts
from tain.foundation.choices import wrong_resamples, wrong_seed
from tain.foundation.errors import UserError, refuse_all
from tain.foundation.progress import Progress
from tain.models.masked_lm import ExploredLoss, MaskedPredictor
from tain.text.lines import source_name
from tain.text.readers import read_texts

if TYPE_CHECKING:
    from rich.console import Group as Lines

SUITE = "mlm"

_TEXT_BYTES = 100_000  # read from the start of each source: some 25,000 tokens of English
_BLOCK_TOKENS = 128


@dataclass(frozen=True)
class LossRow:
    """Loss of one model on one text.

    Attributes:
        text: Name of the text; ``all`` for all texts together.
        model: The model's name.
        loss: Nats per token.
        interval: Its 95% bootstrap interval over blocks.
        bits_per_byte: Comparable between models with different tokenizers.
        tokens: Number of predicted tokens.
    """

    text: str
    model: str
    loss: float
    interval: Interval
    bits_per_byte: float
    tokens: int

    @property
    def perplexity(self) -> float:
        return float(np.exp(self.loss))

    def to_dict(self) -> dict[str, Any]:
        interval = [round(self.interval.low, 5), round(self.interval.high, 5)]
        figures = {"loss": round(self.loss, 5), "interval": interval, "perplexity": round(self.perplexity, 3)}
        return {"text": self.text, "model": self.model, **figures, "bits_per_byte": round(self.bits_per_byte, 5), "tokens": self.tokens}


@dataclass(frozen=True)
class LossReport:
    """Losses of all models on all texts.

    Attributes:
        rows: Grouped by text, models in the given order, ``all`` last if there are several texts.
        passes: Forward passes per block.
        block_tokens: Tokens per block.
        resamples: Bootstrap resamples per interval.
        seed: Seed of the partition and the resamples.
    """

    rows: tuple[LossRow, ...]
    passes: int
    block_tokens: int
    resamples: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        settings = {"passes": self.passes, "block_tokens": self.block_tokens, "resamples": self.resamples, "seed": self.seed}
        return {"suite": SUITE, **settings, "rows": [row.to_dict() for row in self.rows]}

    def as_table(self) -> "Lines":
        """Rich renderable of the report."""
        from rich.console import Group as Lines
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("text", "model"):
            table.add_column(title, overflow="fold")
        for title in ("loss", "95% interval", "perplexity", "bits/byte", "tokens"):
            table.add_column(title, justify="right", no_wrap=True)
        for row in self.rows:
            interval = f"{row.interval.low:.3f} {row.interval.high:.3f}"
            figures = (f"{row.loss:.3f}", interval, f"{row.perplexity:.2f}", f"{row.bits_per_byte:.3f}", f"{row.tokens:,}")
            table.add_row(Text(row.text), Text(row.model), *figures, style="bold" if row.text == "all" else None)
        return Lines(
            table,
            Text(
                f"\nNats per token; every token was masked once, in {self.passes} passes over blocks of {self.block_tokens} tokens, and replaced by the mask token."
                " Bits/byte compares models with different tokenizers; tokens unknown to a"
                " tokenizer are not predicted and count as 0. Interval: bootstrap over blocks,"
                f" {self.resamples} resamples."
            ),
        )


def masked_losses(
    models: Iterable[MaskedPredictor],
    sources: Sequence[str | Path],
    *,
    block_tokens: int | None = None,
    resamples: int = 1000,
    seed: int = 13,
    progress: Progress | None = None,
) -> LossReport:
    """Evaluate models on the first 100,000 bytes of each source; all models read the same text.

    Args:
        models: Loaded lazily, one at a time.
        sources: Text files, as accepted by ``read_texts``.
        block_tokens: Tokens per block; default 128.
        resamples: Bootstrap resamples.
        seed: Seed of the partition and the resamples.
        progress: Receives progress updates.

    Raises:
        UserError: A source cannot be read or is shorter than a block, a model does not support the block length, or its loss is not
            finite.
    """
    progress = progress or Progress.silent()
    block_tokens = block_tokens or _BLOCK_TOKENS
    refuse_all(wrong_resamples(resamples) + wrong_seed(seed))
    texts = {_short_name(source, sources): _beginning(source) for source in sources}
    passes = 0
    found: dict[tuple[str, str], ExploredLoss] = {}
    names = []
    for model in models:
        names.append(model.name)
        if not 16 <= block_tokens <= model.max_tokens:
            raise UserError(
                f"max_tokens is {block_tokens}, but blocks for {model.name!r} have 16 to {model.max_tokens} tokens: give a number in this range"
            )
        for text, lines in texts.items():
            progress.note(f"measuring {model.name} on {text}")
            loss = model.explored_loss(lines, block_tokens=block_tokens, seed=seed, progress=progress)
            if not np.isfinite(loss.nats).all():
                raise UserError(f"model {model.name!r} has a loss of nan or infinity on {text}: check its weights, or use float32")
            found[text, model.name], passes = loss, loss.passes
    if len(texts) > 1:
        for name in names:
            found["all", name] = _together([found[text, name] for text in texts])
    rows = [_row(text, name, loss, resamples=resamples, seed=seed) for (text, name), loss in found.items()]
    order = {text: number for number, text in enumerate([*texts, "all"])}
    rows.sort(key=lambda row: (order[row.text], names.index(row.model)))
    return LossReport(tuple(rows), passes, block_tokens, resamples, seed)


def _beginning(source: str | Path) -> list[str]:
    room = _TEXT_BYTES

    def is_needed(text: str) -> bool:
        nonlocal room
        had_room = room > 0
        room -= len(text.encode())
        return had_room

    return list(takewhile(is_needed, read_texts(source)))


def _short_name(source: str | Path, sources: Sequence[str | Path]) -> str:
    """File name without endings, unless two would coincide."""
    short = [Path(entry).name.split(".")[0] for entry in sources]
    name = Path(source).name.split(".")[0]
    return name if name and short.count(name) == 1 else source_name(source)


def _together(losses: list[ExploredLoss]) -> ExploredLoss:
    nats, tokens = (np.concatenate([getattr(loss, name) for loss in losses]) for name in ("nats", "tokens"))
    return ExploredLoss(nats, tokens, sum(loss.bytes for loss in losses), losses[0].passes)


def _row(text: str, model: str, loss: ExploredLoss, *, resamples: int, seed: int) -> LossRow:
    rng = np.random.default_rng(seed)
    drawn = [counts @ loss.nats / (counts @ loss.tokens) for counts in resample_counts(len(loss.nats), resamples=resamples, rng=rng)]
    interval = percentile_interval(np.concatenate(drawn))
    return LossRow(text, model, loss.loss, interval, loss.bits_per_byte, int(loss.tokens.sum()))

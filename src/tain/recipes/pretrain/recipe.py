"""Pretrain a masked language model, from scratch or continued, from plain text to a transformers folder.

The objective follows Devlin et al. 2019 (BERT). To train a small model within hours on two cores, we add (``docs/LOG.md``): embeddings
initialised from co-occurrence counts, Muon on the matrices, a masking rate of 30%, and a prediction head computed at masked tokens only.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from tain.batches.shards import Sources
from tain.batches.tokenizing import fingerprint
from tain.encoders.dropout import quicken_dropout
from tain.encoders.masked_lm import MaskedLanguageModel
from tain.encoders.transformer import usable_dtype
from tain.foundation.errors import UserError
from tain.foundation.files import whole_folder
from tain.foundation.locks import writes_output
from tain.foundation.machine import collect_as_usual, set_dtype, versions
from tain.foundation.progress import Progress
from tain.recipes.pretrain.bitext import read_translations
from tain.recipes.pretrain.conditional import ConditionalSentences, conditional_model, write_conditional_layout
from tain.recipes.pretrain.config import NEW_MODEL, PretrainConfig
from tain.recipes.pretrain.objectives import OBJECTIVES, MaskingContext, Objective
from tain.recipes.pretrain.preparing import SCRATCH, Preparation
from tain.recipes.pretrain.trainer import PretrainTrainer
from tain.recipes.pretrain.validation import HeldOut
from tain.recipes.shared.run import RunOutput, join_processes, run_device
from tain.recipes.shared.settings import resolve_config
from tain.text.readers import read_texts
from tain.training import distributed
from tain.training.loop import Saving
from tain.training.optimizer import MasterWeights, Optimizer

_OBJECTIVES: dict[str, Callable[[MaskingContext], Objective]] = {**OBJECTIVES, "cmlm": ConditionalSentences}


@dataclass(frozen=True)
class Pretrained:
    """A pretrained model with its losses.

    Attributes:
        model: The masked language model, float32, in eval mode.
        tokenizer: Its tokenizer.
        tokens: Tokens passed through the encoder, counted once per pass.
        steps: Steps done.
        seconds: Time in the training loop, including the time before a resumed checkpoint.
        losses: Training loss of each step, nats.
        validation: (tokens, loss) of each measurement, always with the same 15% of tokens masked.
        held_out: (tokens, figures) of the objective's own measurements, at the same steps.
        finished: False when ``minutes`` ran out first.
        folder: Where it was saved; None while unfinished.
    """

    model: Any
    tokenizer: Any
    tokens: int
    steps: int
    seconds: float
    losses: list[float]
    validation: list[tuple[int, float]]
    held_out: list[tuple[int, dict[str, float]]]
    finished: bool
    folder: Path | None

    def _repr_html_(self) -> str:
        """Steps and losses, in a notebook."""
        from tain.foundation.ruled_table import as_html, ruled_table

        shown = max(1, len(self.losses) // 10)
        mean = [sum(part) / len(part) for part in (self.losses[:shown], self.losses[-shown:]) if part]
        table = ruled_table("loss, nats a masked token", "value", gap=2)
        for name, value in zip((f"training, first {shown} steps", f"training, last {shown} steps"), mean, strict=False):
            table.add_row(name, f"{value:.3f}")
        for tokens, loss in self.validation[-1:]:
            table.add_row(f"held-out texts, after {tokens:,} tokens", f"{loss:.3f}")
        where = [f"saved in {self.folder}"] if self.folder is not None else ["unfinished: continue with resume=True"]
        return as_html(table, f"{self.tokens:,} tokens in {self.steps} steps, {self.seconds:.0f} s", *where)


@writes_output
def pretrain(
    model: str | Path,
    texts: Sequence[str | Path],
    output: str | Path,
    *,
    config: PretrainConfig | None = None,
    column: str | None = None,
    document_column: str | None = None,
    overwrite: bool = False,
    progress: Progress | bool | None = None,
    **settings: Any,
) -> Pretrained:
    r"""Train a masked language model on running text.

    Args:
        model: ``scratch`` for a new model, else a masked language model or an encoder to continue: a folder, a hub name or ``tain-mini``.
        texts: Files for ``read_sentences``; an empty line ends a document.
        output: Folder for the model, in transformers format.
        config: All settings at once; or give settings by keyword.
        column: Column of the texts, if the files are tables.
        document_column: Column that identifies the document of each row of a table; default: each row is a document.
        overwrite: Replace ``output`` if it exists, and, without ``resume``, the checkpoint of an interrupted run.
        progress: ``False`` shows nothing; ``None`` (default) shows a bar on a terminal or in a notebook; or a ``Progress``.
        **settings: Fields of ``PretrainConfig``.

    Raises:
        UserError: Settings, texts or model are invalid.

    Examples:
        >>> import tain
        >>> from pathlib import Path
        >>> _ = Path("notes.txt").write_text("rivers run to the sea\n" * 50)
        >>> result = tain.pretrain("tain-mini", ["notes.txt"], "model", tokens=128.0, block_tokens=32, batch_blocks=2)
        >>> result.folder
        PosixPath('model')
    """
    import transformers

    progress = Progress.resolve(progress)
    transformers.logging.disable_progress_bar()
    config = resolve_config(PretrainConfig, "pretrain", config, settings)
    if isinstance(texts, str | Path):
        raise UserError(f"texts is {str(texts)!r}, one file: give a list of files, [{str(texts)!r}]")
    folder = Path(output)
    work = folder.parent / f".{folder.name}.pretrain"
    inputs = [model, *texts, *config.validation, config.bitext, config.words, config.shards, config.tokenizer]
    place = RunOutput(folder, overwrite, config.resume, (work / "checkpoint",)).check(inputs)
    if str(model) == SCRATCH and (config.add_words or config.words):
        raise UserError(
            "add_words and words only apply to a continued model; a new model's tokenizer is trained on the texts: leave them out"
        )
    if str(model) != SCRATCH:
        config.refuse_shape(str(model))
    sources = Sources(tuple(map(str, texts)), column, document_column)
    for source in (*texts, *config.validation):
        read_texts(source, column=column if source in texts else None)  # refuse an unreadable file now, not after an hour
    if config.bitext is not None:
        read_translations(config.bitext)
    progress = join_processes(config.device, progress)
    return _PretrainRun(str(model), sources, config, place, progress, work=work).run()


class _PretrainRun:
    """One run: prepares model and texts, trains, and saves the model."""

    def __init__(self, model: str, sources: Sources, config: PretrainConfig, output: RunOutput, progress: Progress, *, work: Path) -> None:
        self.model_name, self.sources, self.config = model, sources, config
        self.output, self.progress, self.work = output, progress, work

    def run(self) -> Pretrained:
        config, device = self.config, run_device(self.config.device)
        collect_as_usual()
        torch.manual_seed(config.seed)
        prepared = distributed.first_then_others(Preparation(self.model_name, self.sources, config, self.work, self.progress).run)
        model, self.tokenizer, self.facts = prepared.model, prepared.tokenizer, prepared.facts
        held = HeldOut(config.validation, self.tokenizer, config)
        model.to(device)
        quicken_dropout(model)
        network = MaskedLanguageModel(model)
        begun_in = self.output.dtype_begun_in
        self.dtype = distributed.choose_dtype(config.dtype, choose=lambda asked: usable_dtype(model, asked), begun_in=begun_in)
        conditional = conditional_model(model, config) if config.objective == "cmlm" else None
        trained = conditional if conditional is not None else model
        distributed.copy_from_first([*trained.parameters(), *trained.buffers()])
        weights = MasterWeights(trained, dtype=self.dtype)
        context = MaskingContext(network, weights, self.tokenizer, prepared.shards, config, device, conditional)
        objective = _OBJECTIVES[config.objective](context)
        self._tell(objective.facts)
        trainer = PretrainTrainer(network, trained, weights, objective, held, config, device=device)
        if not config.resume and distributed.rank() == 0:
            (self.work / "log.jsonl").unlink(missing_ok=True)  # left by an earlier run
        run = trainer.train(
            progress=self.progress,
            saving=self._saving(),
            on_figures=self._log,
            on_mark=lambda optimizer, tokens: self._snapshot(model, optimizer, tokens),
        )
        weights.restore(model)
        model.eval()
        finished = run.steps >= trainer.steps
        tokens = run.steps * objective.step_tokens
        if finished and distributed.rank() == 0:
            self._save(model, tokens, trainer.measured)
            self._tell_kept()
        distributed.wait_for_all()
        return Pretrained(
            model,
            self.tokenizer,
            tokens,
            run.steps,
            run.seconds,
            run.losses,
            [(tokens, loss) for tokens, loss in trainer.measured["validation"]],
            [(tokens, figures) for tokens, figures in trainer.measured["held_out"]],
            finished,
            self.output.folder if finished else None,
        )

    def _tell(self, facts: dict[str, Any]) -> None:
        """Store an objective's facts about its texts in the record, and report them."""
        self.facts |= facts
        for name, found in facts.items():
            shown = (
                ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in found.items()) if isinstance(found, dict) else f"{found:,}"
            )
            self.progress.note(f"{name.replace('_', ' ')}: {shown}")

    def _tell_kept(self) -> None:
        """Report the files that stay on disk for the next run, and their size."""
        kept = sum(file.stat().st_size for file in self.work.rglob("*") if file.is_file())
        self.progress.note(
            f"{str(self.work)!r} ({kept / 1e6:,.1f} MB) is kept for later runs with this output: tokenised texts and the last checkpoint"
        )

    def _saving(self) -> Saving:
        config, identity = self.config, self._identity()
        # defaults for checkpoints that are older than a setting; without an entry for the texts they are accepted
        defaults = {entry.name: entry.default for entry in fields(PretrainConfig)} | {"texts": identity["texts"]}
        defaults["mask_unit"] = "text" if config.spread_over_epochs else "batch"  # the behaviour of older runs
        saving = self.output.saving(0, identity=identity, every_s=config.checkpoint_every_s, defaults=defaults)
        assert saving is not None, "pretraining has an output folder"
        return saving

    def _identity(self) -> dict[str, Any]:
        """Settings and inputs that must not change on resume; length, device and learning-rate decay may."""
        free = {"tokens", "decay_share", "resume", "minutes", "checkpoint_every_s", "compile", "device", "save_dtype", "shards"}
        free |= {"validation", "validate_every_tokens", "snapshots", "dtype"}
        texts = hashlib.sha256(json.dumps(self.sources.facts()).encode()).hexdigest()[:16]
        settings = {name: value for name, value in _plain(self.config).items() if name not in free}
        made = {"number_type": str(self.dtype).removeprefix("torch."), "tokenizer's content": fingerprint(self.tokenizer)}
        if self.config.bitext is not None:
            made["content of the translations"] = hashlib.sha256(self.config.bitext.read_bytes()).hexdigest()[:16]
        return {"model": self.model_name, "texts": texts, **settings, **made}

    def _log(self, done: int, tokens: int, figures: dict[str, float]) -> None:
        if distributed.rank() > 0:
            return
        self.work.mkdir(parents=True, exist_ok=True)
        with (self.work / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({"tokens": tokens, "step": done, **figures, "time": round(time.time())}) + "\n")
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in figures.items())
        self.progress.note(f"{shortened(tokens)} tokens: {shown}")

    def _snapshot(self, model: Any, optimizer: Optimizer, tokens: int) -> None:
        dtype = next(model.parameters()).dtype
        optimizer.weights.restore(model)
        with whole_folder(self.work / f"snapshot-{tokens / 1e6:.0f}M", overwrite=True, follow=False) as folder:
            _save_weights(model, folder, torch.float16)
            self.tokenizer.save_pretrained(folder)
        set_dtype(model, dtype)

    def _save(self, model: Any, tokens: int, measured: dict[str, list[Any]]) -> None:
        record = {
            "format": 1,
            "kind": "masked language model",
            "base_model": self.model_name,
            "config": {name: value for name, value in _plain(self.config).items() if self.model_name == SCRATCH or name not in NEW_MODEL},
            "texts": self.sources.facts(),
            **self.facts,
            "tokens": tokens,
            **measured,
            "versions": versions(),
        }
        with self.output.writing() as folder:
            _save_weights(model, folder, getattr(torch, self.config.save_dtype))
            self.tokenizer.save_pretrained(folder)
            if self.config.objective == "cmlm":
                write_conditional_layout(folder, model, self.tokenizer, record)
            else:
                (folder / "tain.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def shortened(tokens: int | float) -> str:
    """Format a number of tokens, in millions from one million."""
    return f"{tokens / 1e6:.2f}M" if tokens >= 1e6 else f"{tokens:,.0f}"


def _plain(config: PretrainConfig) -> dict[str, Any]:
    """Settings as JSON values, with the default of ``mask_unit`` filled in."""
    return {name: _plain_value(value) for name, value in (asdict(config) | {"mask_unit": config.masked_by}).items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain_value(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _save_weights(model: Any, folder: Path, dtype: torch.dtype) -> None:
    """Save a model in another data type without changing it, so that training can continue."""
    kept, kept_type = [(parameter, parameter.data) for parameter in model.parameters()], model.config.dtype
    try:
        set_dtype(model, dtype)
        model.config.dtype = dtype
        model.save_pretrained(folder)
    finally:
        model.config.dtype = kept_type
        for parameter, data in kept:
            parameter.data = data

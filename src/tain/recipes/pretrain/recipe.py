"""Pretrain a masked language model, from scratch or continued, from plain text to a transformers folder.

The objective follows Devlin et al. 2019 (BERT). To train a small model within hours on two cores, we add (``docs/LOG.md``): embeddings
initialised from co-occurrence counts, Muon on the matrices, a masking rate of 30%, and a prediction head computed at masked tokens only.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tain.batches.order import step_seed
from tain.batches.shards import Shards, Sources, tokenised
from tain.batches.tokenizing import fingerprint
from tain.encoders.cooccurrence import cooccurrence_vectors
from tain.encoders.dropout import quicken_dropout
from tain.encoders.masked_lm import MaskedLanguageModel, grow_embeddings, start_embeddings, tied_names
from tain.encoders.transformer import usable_dtype
from tain.foundation.errors import UserError
from tain.foundation.files import whole_file, whole_folder
from tain.foundation.locks import writes_output
from tain.foundation.machine import collect_as_usual, set_dtype, versions
from tain.foundation.progress import Progress
from tain.models.embedder import max_length
from tain.models.loading import load_tokenizer
from tain.models.masked_lm import load_masked_lm, refuse_without_mask
from tain.recipes.pretrain.bitext import read_translations
from tain.recipes.pretrain.conditional import ConditionalSentences, conditional_model, pseudo_tokens_of, write_conditional_layout
from tain.recipes.pretrain.config import NEW_MODEL, PretrainConfig
from tain.recipes.pretrain.objectives import OBJECTIVES, MaskingContext, Objective
from tain.recipes.pretrain.start import alphabet_of, new_model, train_wordpiece
from tain.recipes.pretrain.validation import HeldOut
from tain.recipes.pretrain.vocabulary import add_words, count_words, words_cut_up
from tain.recipes.shared.run import RunOutput, run_device
from tain.recipes.shared.settings import resolve_config
from tain.text.readers import read_texts
from tain.training import distributed
from tain.training.loop import Saving, Trained, train, warmup_then_linear
from tain.training.optimizer import MasterWeights, Optimizer, adamw, muon_and_adamw

SCRATCH = "scratch"

_MUCH_UNKNOWN, _MOST_UNKNOWN = 0.02, 0.5  # shares of tokens: from here a warning, from here an error
_LOOKED_AT = 2**24  # tokens at a time
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
    """Train a masked language model on running text.

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
    """
    import transformers

    progress = Progress.resolve(progress)
    transformers.logging.disable_progress_bar()
    config = resolve_config(PretrainConfig, "pretrain", config, settings)
    if isinstance(texts, str | Path):
        raise UserError(f"texts is {str(texts)!r}, one file: give a list of files, [{str(texts)!r}]")
    folder = Path(output)
    work = folder.parent / f".{folder.name}.pretrain"
    place = RunOutput(folder, overwrite, config.resume, (work / "checkpoint",)).check()
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
    return PretrainTrainer(str(model), sources, folder, config, place, progress).run()


class PretrainTrainer:
    """Prepares model, tokenizer and texts, trains, and saves the model."""

    def __init__(self, model: str, sources: Sources, folder: Path, config: PretrainConfig, output: RunOutput, progress: Progress) -> None:
        self.model_name, self.sources, self.folder, self.config = model, sources, folder, config
        self.output, self.progress = output, progress
        (self.checkpoint,) = output.checkpoints
        self.work = self.checkpoint.parent
        self.device = run_device(config.device)
        self.measured: dict[str, list[Any]] = {"validation": [], "held_out": []}  # stored in checkpoints
        self.facts: dict[str, Any] = {}  # about the initialisation, for the saved record

    def run(self) -> Pretrained:
        config = self.config
        collect_as_usual()
        torch.manual_seed(config.seed)
        model, shards = self._new() if self.model_name == SCRATCH else self._continued()
        held = HeldOut(config.validation, self.tokenizer, config)
        model.to(self.device)
        quicken_dropout(model)
        network = MaskedLanguageModel(model)
        self.dtype = distributed.choose_dtype(
            config.dtype, choose=lambda asked: usable_dtype(model, asked), begun_in=self.output.dtype_begun_in
        )
        conditional = conditional_model(model, config) if config.objective == "cmlm" else None
        trained = conditional if conditional is not None else model
        weights = MasterWeights(trained, dtype=self.dtype)
        objective = _OBJECTIVES[config.objective](
            MaskingContext(network, weights, self.tokenizer, shards, config, self.device, conditional)
        )
        self._tell(objective.facts)
        steps = max(1, round(config.tokens / objective.step_tokens))
        run = self._loop(network, self._optimizer(trained, weights), objective, held, steps)
        weights.restore(model)
        model.eval()
        finished = run.steps >= steps
        tokens = run.steps * objective.step_tokens
        if finished:
            self._save(model, tokens)
            self._tell_kept()
        result_folder = self.folder if finished else None
        return Pretrained(
            model,
            self.tokenizer,
            tokens,
            run.steps,
            run.seconds,
            run.losses,
            [(tokens, loss) for tokens, loss in self.measured["validation"]],
            [(tokens, figures) for tokens, figures in self.measured["held_out"]],
            finished,
            result_folder,
        )

    def _new(self) -> tuple[Any, Shards]:
        self.tokenizer = self._new_tokenizer()
        refuse_without_mask(self.tokenizer, self.config.tokenizer or self.model_name)
        model = new_model(self.config, self.tokenizer)
        self._refuse_long_blocks(model)
        shards = self._shards()
        if self.config.cooccurrence_init and not self.config.resume:
            self._start_embeddings(model, shards)
        return model, shards

    def _continued(self) -> tuple[Any, Shards]:
        loaded = load_masked_lm(self.model_name, trust_remote_code=self.config.trust_remote_code)
        self.tokenizer = loaded.tokenizer
        self._refuse_long_blocks(loaded.model)
        self.facts["new_head"] = loaded.new_head
        if loaded.new_head:
            self.progress.note(f"{self.model_name!r} has no prediction head ({len(loaded.new_head)} parameters): it gets a random new one")
        words = self._words()
        if words:
            new = add_words(self.tokenizer, words)
            grow_embeddings(loaded.model, new)
            self.facts["added_words"] = len(new)
            self.progress.note(f"the tokenizer learned {len(new):,} words" + self._examples(new))
        return loaded.model, self._shards()

    def _refuse_long_blocks(self, model: Any) -> None:
        """Refuse blocks that are longer than the model's limit, before the texts are tokenised into shards."""
        positions = max_length(model, self.tokenizer)
        pseudo_tokens = pseudo_tokens_of(self.config)
        if self.config.block_tokens + pseudo_tokens > positions:
            beside = f" including {pseudo_tokens} pseudo-tokens" if pseudo_tokens else ""
            raise UserError(
                f"block_tokens is {self.config.block_tokens}, but model {self.model_name!r} reads {positions} tokens{beside} at most: "
                f"give {positions - pseudo_tokens} or fewer"
            )

    def _new_tokenizer(self) -> Any:
        if self.config.tokenizer is not None:
            return load_tokenizer(self.config.tokenizer, trust_remote_code=self.config.trust_remote_code)
        key = hashlib.sha256(json.dumps([self.sources.facts(), self.config.vocab_size]).encode()).hexdigest()[:16]
        folder = self.work / f"tokenizer-{key}"
        if not (folder / "tokenizer.json").exists():
            self.progress.note(f"training a tokenizer of {self.config.vocab_size:,} word pieces")
            # each character may need two pieces: one that starts a word and one that continues it
            alphabet = alphabet_of(self.sources.texts(), most=self.config.vocab_size // 3)
            trained = train_wordpiece(self.sources.texts(), vocabulary=self.config.vocab_size, alphabet=alphabet)
            with whole_folder(folder, overwrite=True, follow=False) as partial:
                trained.save_pretrained(partial)
        return load_tokenizer(folder)

    def _words(self) -> list[str]:
        """The words to add to the tokenizer; counted words are stored, so that a resumed run does not count again."""
        given = list(read_texts(self.config.words)) if self.config.words is not None else []
        if not self.config.add_words:
            return given
        kept = self.work / f"words-{self._key(self.config.add_words)}.txt"
        if not kept.exists():
            found = words_cut_up(count_words(self.sources.texts(), self.tokenizer), self.tokenizer, words=self.config.add_words)
            with whole_file(kept) as partial:
                partial.write_text("\n".join(found), encoding="utf-8")
        found = kept.read_text(encoding="utf-8").split()
        if len(found) < self.config.add_words:
            self.progress.note(f"only {len(found):,} words of the texts are frequent and split into 3 or more pieces")
        return given + found

    def _examples(self, new: Collection[int]) -> str:
        shown = self.tokenizer.convert_ids_to_tokens(list(new)[:3])
        return f": {', '.join(shown)}, ..." if shown else ""

    def _shards(self) -> Shards:
        """The tokenised texts; stored, so that a resumed run or another objective does not tokenise again."""
        folder = self.config.shards or self.work / f"shards-{self._key()}"
        shards = tokenised(folder, self.sources, self.tokenizer, progress=self.progress)
        needed = (self.config.batch_blocks + 1) * self.config.block_tokens
        if len(shards.tokens) < needed:
            raise UserError(
                f"the texts have {len(shards.tokens):,} tokens, fewer than one step takes ({needed:,}): give more text, or --batch-blocks 1"
            )
        self._tell_unknown(shards)
        return shards

    def _tell_unknown(self, shards: Shards) -> None:
        """Warn about unknown tokens in the texts, and refuse texts that are mostly unknown."""
        unknown = self.tokenizer.unk_token_id
        if unknown is None or unknown == shards.separator:
            return
        pieces = (shards.tokens[first : first + _LOOKED_AT] for first in range(0, len(shards.tokens), _LOOKED_AT))
        share = sum(int(np.count_nonzero(piece == unknown)) for piece in pieces) / len(shards.tokens)
        if share > _MOST_UNKNOWN:
            raise UserError(
                f"{share:.0%} of the texts' tokens are unknown to the tokenizer, and cannot be learned: "
                "give a model for the language of the texts, or for a new model a larger --vocab-size"
            )
        if share > _MUCH_UNKNOWN:
            self.progress.warn(f"{share:.1%} of the texts' tokens are unknown to the tokenizer, and are not masked or learned")

    def _key(self, *more: Any) -> str:
        """Hash of texts and tokenizer, to recognise stored results of other ones."""
        return hashlib.sha256(json.dumps([self.sources.facts(), fingerprint(self.tokenizer), *more]).encode()).hexdigest()[:16]

    def _start_embeddings(self, model: Any, shards: Shards) -> None:
        began_s = time.monotonic()
        generator = torch.Generator().manual_seed(step_seed(self.config.seed, 0, 5))
        table, unigram = cooccurrence_vectors(
            shards.tokens,
            vocabulary=len(self.tokenizer),
            dim=model.get_input_embeddings().weight.shape[1],
            special_ids=self.tokenizer.all_special_ids,
            generator=generator,
        )
        start_embeddings(model, table, unigram)
        self.progress.note(f"embeddings initialised from co-occurrence counts ({time.monotonic() - began_s:.0f} s)")

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

    def _optimizer(self, model: Any, weights: MasterWeights) -> Optimizer:
        config = self.config
        if config.optimizer == "adamw":
            return adamw(weights, learning_rate=config.learning_rate, weight_decay=config.weight_decay, max_grad_norm=config.max_grad_norm)
        return muon_and_adamw(
            weights,
            matrix_learning_rate=config.matrix_learning_rate,
            embedding_learning_rate=config.embedding_learning_rate,
            other_learning_rate=config.learning_rate,
            embeddings=[*tied_names(model), *(name for name in weights.names if "embedding" in name)],
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
        )

    def _loop(self, network: MaskedLanguageModel, optimizer: Optimizer, objective: Objective, held: HeldOut, steps: int) -> Trained:
        config, step_tokens = self.config, objective.step_tokens
        network.train()
        if not config.resume:
            (self.work / "log.jsonl").unlink(missing_ok=True)  # left by an earlier run
        every = max(1, round(config.validate_every_tokens / step_tokens))
        marks = _doubling_steps(step_tokens) if config.snapshots else set()

        def after_step(done: int) -> None:
            tokens = done * step_tokens
            if done % every == 0 or done == steps:
                figures = objective.held_out()
                if figures:
                    self.measured["held_out"].append([tokens, figures])
                if held.batches:
                    loss = round(held.loss(network, self.device), 4)
                    self.measured["validation"].append([tokens, loss])
                    figures = {"validation_loss": loss, **figures}
                if figures:
                    self._log(done, tokens, figures)
            if done in marks:
                self._snapshot(network.model, optimizer, tokens)

        identity = self._identity()
        # defaults for checkpoints that are older than a setting; without an entry for the texts they are accepted
        defaults = {entry.name: entry.default for entry in fields(PretrainConfig)} | {"texts": identity["texts"]}
        defaults["mask_unit"] = "text" if config.spread_over_epochs else "batch"  # the behaviour of older runs
        began_s = time.monotonic()
        out_of_time: Callable[[int], bool] | None = None
        if config.minutes is not None:
            limit_s = 60 * config.minutes
            out_of_time = lambda done: time.monotonic() - began_s > limit_s  # noqa: E731
        return train(
            objective.gradient,
            optimizer,
            steps=steps,
            progress=self.progress,
            name="pretrain",
            rate_factor=warmup_then_linear(steps, warmup_steps=config.warmup_steps, decay_share=config.decay_share),
            saving=Saving(self.checkpoint, config.checkpoint_every_s, config.resume, identity, defaults),
            after_step=after_step,
            enough=out_of_time,
            keeps_unfinished=True,
            memory=self.measured,
        )

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

    def _save(self, model: Any, tokens: int) -> None:
        record = {
            "format": 1,
            "kind": "masked language model",
            "base_model": self.model_name,
            "config": {name: value for name, value in _plain(self.config).items() if self.model_name == SCRATCH or name not in NEW_MODEL},
            "texts": self.sources.facts(),
            **self.facts,
            "tokens": tokens,
            **self.measured,
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


def _doubling_steps(step_tokens: int) -> set[int]:
    return {math.ceil(2**power * 1e6 / step_tokens) for power in range(16)}


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

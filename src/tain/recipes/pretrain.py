"""Masked language model pretraining, from scratch or continued, from plain text to a transformers folder.

Devlin et al. 2019 (BERT) is the objective. What makes a small model learn within hours on two cores is ours
(``docs/LOG.md``): embeddings that start from counted co-occurrences, Muon on the matrices, 30% of the tokens masked and the head computed there only.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tain.batches.blocks import BlockOrder
from tain.batches.masking import MaskedTokens, mask_at_random
from tain.batches.order import step_seed
from tain.encoders.cooccurrence import cooccurrence_vectors
from tain.encoders.masked_lm import MaskedLanguageModel, start_embeddings, tied_names
from tain.foundation.errors import UserError
from tain.foundation.files import refuse_existing, whole_folder
from tain.foundation.progress import Progress
from tain.foundation.runtime import choose_device, fastest_dtype, keep_freed_memory, set_number_type, versions
from tain.models.embedder import load_pretrained
from tain.models.saved import locate
from tain.objectives.masked_lm import masked_cross_entropy
from tain.recipes.pretrain_config import PretrainConfig
from tain.text.readers import read_texts
from tain.training.loop import Saving, Trained, train, warmup_then_linear
from tain.training.optimizer import MasterWeights, Optimizer, adamw, muon_and_adamw

SCRATCH = "scratch"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Pretrained:
    """What pretraining gives back.

    Attributes:
        model: The masked language model, float32, in eval mode.
        tokenizer: Its tokenizer.
        tokens: Tokens trained on, passes counted again.
        steps: Steps done.
        seconds: Time in the training loop, this process only.
        losses: Training loss of each step, nats.
        validation: (tokens, loss) wherever it was measured: 15% masked, the same places every time.
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
    finished: bool
    folder: Path | None


def pretrain(
    model: str | Path,
    texts: Sequence[str | Path],
    output: str | Path,
    *,
    config: PretrainConfig | None = None,
    column: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Pretrained:
    """Train a masked language model on running text.

    Args:
        model: ``scratch`` for a new one, else a folder, a hub name or ``tain-mini`` to continue.
        texts: Files as ``read_texts`` takes them.
        output: Folder for the model, as transformers saves it.
        config: All settings at once; or give single ones by name.
        column: The texts' column, where the files are tables.
        overwrite: Replace ``output`` if it exists.
        progress: Told what happens.
        **settings: Fields of ``PretrainConfig``.

    Raises:
        UserError: Settings, texts or model cannot work.
    """
    import transformers

    progress = progress or Progress.silent()
    transformers.logging.disable_progress_bar()
    if config is not None and settings:
        raise UserError(f"settings were given twice, as config and as {', '.join(settings)}: give one or the other")
    unknown = sorted(set(settings) - {entry.name for entry in fields(PretrainConfig)})
    if unknown:
        raise UserError(f"pretrain knows no setting {', '.join(unknown)}")
    config = config or PretrainConfig(**settings)
    output = Path(output)
    refuse_existing(output, overwrite=overwrite)
    for source in (*texts, *config.validation):
        read_texts(source, column=column if source in texts else None)  # a file that cannot be read is refused here, not after an hour
    return _Session(str(model), [str(source) for source in texts], output, config, column, overwrite, progress).run()


class _Session:
    """A model, a stream of tokens and settings, through to the saved folder."""

    def __init__(
        self, model: str, sources: list[str], output: Path, config: PretrainConfig, column: str | None, overwrite: bool, progress: Progress
    ) -> None:
        self.model_name, self.sources, self.output, self.config = model, sources, output, config
        self.column, self.overwrite, self.progress = column, overwrite, progress
        self.device = choose_device(config.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.number_type = fastest_dtype(self.device.type) if config.dtype == "auto" else getattr(torch, config.dtype)
        self.work = output.parent / f".{output.name}.pretrain"
        self.validation: list[tuple[int, float]] = []

    def run(self) -> Pretrained:
        config = self.config
        torch.manual_seed(config.seed)
        is_new = self.model_name == SCRATCH
        if is_new:
            tokenizer = self._tokenizer()
            stream = self._stream(tokenizer)
            model = new_model(config, tokenizer)
            if config.cooccurrence_start and not config.resume:
                self._start_embeddings(model, tokenizer, stream)
        else:
            model, tokenizer = load_pretrained("AutoModelForMaskedLM", locate(self.model_name), trust_remote_code=config.trust_remote_code)
            stream = self._stream(tokenizer)
        if tokenizer.mask_token_id is None:
            raise UserError(f"the tokenizer of {self.model_name!r} has no mask token: give a masked language model")
        self.tokenizer = tokenizer
        order = self._order(stream)
        held = self._validation_batches()
        model.to(self.device)
        network = MaskedLanguageModel(model)
        weights = MasterWeights(model, number_type=self.number_type)
        optimizer = self._optimizer(model, weights)
        steps = max(1, round(config.tokens / self._step_tokens))
        run = self._loop(network, optimizer, order, held, steps)
        weights.restore(model)
        model.eval()
        finished = run.steps >= steps
        if finished:
            self._save(model, run)
        result_folder = self.output if finished else None
        tokens = run.steps * self._step_tokens
        return Pretrained(model, tokenizer, tokens, run.steps, run.seconds, run.losses, self.validation, finished, result_folder)

    @property
    def _step_tokens(self) -> int:
        return self.config.batch_blocks * self.config.block_tokens

    def _tokenizer(self) -> Any:
        import transformers

        if self.config.tokenizer is not None:
            return transformers.AutoTokenizer.from_pretrained(self.config.tokenizer)
        folder = self.work / "tokenizer"
        if not (folder / "tokenizer.json").exists():
            self.progress.note(f"training a tokenizer of {self.config.vocabulary:,} word pieces")
            trained = train_wordpiece(self._texts(), vocabulary=self.config.vocabulary)
            with whole_folder(folder, overwrite=True) as partial:
                trained.save_pretrained(partial)
        return transformers.AutoTokenizer.from_pretrained(folder)

    def _texts(self) -> Iterator[str]:
        for source in self.sources:
            yield from read_texts(source, column=self.column)

    def _stream(self, tokenizer: Any) -> np.ndarray:
        """Token ids of all texts, a separator behind each; kept beside the output, so that a resumed run need not tokenise again."""
        facts = [(source, Path(source).stat().st_size if Path(source).exists() else 0) for source in self.sources]
        key = hashlib.sha256(json.dumps([facts, tokenizer.backend_tokenizer.to_str(), self.column]).encode()).hexdigest()[:16]
        folder = self.work / f"tokens-{key}"
        if not (folder / "stream.npy").exists():
            stream = tokens_of(self._texts(), tokenizer, self.progress)
            with whole_folder(folder, overwrite=True) as partial:
                np.save(partial / "stream.npy", stream)
        stream = np.load(folder / "stream.npy", mmap_mode="r")
        needed = (self.config.batch_blocks + 1) * self.config.block_tokens
        if len(stream) < needed:
            raise UserError(
                f"the texts have {len(stream):,} tokens, fewer than one step takes ({needed:,}): give more text, or --batch-blocks 1"
            )
        return stream

    def _start_embeddings(self, model: Any, tokenizer: Any, stream: np.ndarray) -> None:
        began_s = time.monotonic()
        generator = torch.Generator().manual_seed(step_seed(self.config.seed, 0, 5))
        table, unigram = cooccurrence_vectors(
            stream,
            vocabulary=len(tokenizer),
            dim=model.get_input_embeddings().weight.shape[1],
            special_ids=tokenizer.all_special_ids,
            generator=generator,
        )
        start_embeddings(model, table, unigram)
        self.progress.note(f"embeddings start from co-occurrence counts ({time.monotonic() - began_s:.0f} s)")

    def _order(self, stream: np.ndarray) -> BlockOrder:
        return BlockOrder(
            stream,
            block_tokens=self.config.block_tokens,
            batch_blocks=self.config.batch_blocks,
            first_id=_boundary(self.tokenizer, "cls_token_id", "bos_token_id"),
            last_id=_boundary(self.tokenizer, "sep_token_id", "eos_token_id"),
            seed=self.config.seed,
        )

    def _masked(self, ids: Tensor, seed: int, rate: float) -> MaskedTokens:
        special = torch.tensor(self.tokenizer.all_special_ids)
        return mask_at_random(
            ids,
            is_maskable=~torch.isin(ids, special),
            rate=rate,
            mask_id=self.tokenizer.mask_token_id,
            vocabulary=len(self.tokenizer),
            first_ordinary_id=_first_ordinary_id(self.tokenizer),
            generator=torch.Generator().manual_seed(seed),
        )

    def _validation_batches(self) -> list[MaskedTokens]:
        """Up to 100 blocks a validation file, masked once and for all at 15%."""
        batches = []
        for number, path in enumerate(self.config.validation):
            stream = tokens_of(read_texts(path), self.tokenizer, Progress.silent())
            blocks = self._order(stream)
            starts = np.arange(min(100, len(stream) // blocks.inner)) * blocks.inner
            if not len(starts):
                raise UserError(
                    f"validation file {str(path)!r} has {len(stream)} tokens, fewer than a block of {self.config.block_tokens}: give a longer one"
                )
            for first in range(0, len(starts), 25):
                batches.append(self._masked(blocks.blocks_at(starts[first : first + 25]), step_seed(1, number, first), 0.15))
        return batches

    @torch.no_grad()
    def _validation_loss(self, network: MaskedLanguageModel, batches: list[MaskedTokens]) -> float:
        was_training = network.training
        network.eval()
        total, places = 0.0, 0
        for batch in batches:
            logits = network(batch.ids.to(self.device), batch.places.to(self.device))
            total += masked_cross_entropy(logits, batch.targets.to(self.device)).item() * len(batch.places)
            places += len(batch.places)
        network.train(was_training)
        return total / places

    def _optimizer(self, model: Any, weights: MasterWeights) -> Optimizer:
        config = self.config
        if config.optimizer == "adamw":
            return adamw(weights, learning_rate=config.learning_rate, weight_decay=config.weight_decay)
        return muon_and_adamw(
            weights,
            matrix_rate=config.matrix_rate,
            embedding_rate=config.embedding_rate,
            other_rate=config.learning_rate,
            embeddings=[*tied_names(model), *(name for name in weights.names if "embedding" in name)],
        )

    def _loop(self, network: MaskedLanguageModel, optimizer: Optimizer, order: BlockOrder, held: list[MaskedTokens], steps: int) -> Trained:
        config = self.config
        network.train()

        def loss_of(ids: Tensor, places: Tensor, targets: Tensor) -> Tensor:
            return masked_cross_entropy(network(ids, places), targets)

        compiled = torch.compile(loss_of) if config.compile else loss_of

        def step(number: int) -> float:
            batch = self._masked(order.batch(number), step_seed(config.seed, number, 7), config.masking_rate)
            if config.dropout:
                torch.manual_seed(step_seed(config.seed, number, 8))
            loss = compiled(batch.ids.to(self.device), batch.places.to(self.device), batch.targets.to(self.device))
            loss.backward()
            return loss.item()

        every = max(1, round(config.validate_every_tokens / self._step_tokens))
        marks = _doubling_steps(self._step_tokens) if config.snapshots else set()

        def after_step(done: int) -> None:
            if held and (done % every == 0 or done == steps):
                loss = self._validation_loss(network, held)
                self.validation.append((done * self._step_tokens, round(loss, 4)))
                self._log(done, loss)
            if done in marks:
                self._snapshot(network.model, optimizer, done)

        began_s = time.monotonic()
        out_of_time: Callable[[int], bool] | None = None
        if config.minutes is not None:
            limit_s = 60 * config.minutes
            out_of_time = lambda done: time.monotonic() - began_s > limit_s  # noqa: E731
        return train(
            step,
            optimizer,
            steps=steps,
            progress=self.progress,
            name="pretrain",
            rate_factor=warmup_then_linear(steps, warmup_steps=config.warmup_steps, decay_share=config.decay_share),
            saving=Saving(self.work / "checkpoint", config.checkpoint_every_s, config.resume, self._identity()),
            after_step=after_step,
            enough=out_of_time,
        )

    def _identity(self) -> dict[str, Any]:
        """What must not change when a run goes on; how long it runs, where and how it cools down may."""
        free = {"tokens", "decay_share", "resume", "minutes", "checkpoint_every_s", "compile", "device", "save_dtype"}
        free |= {"validation", "validate_every_tokens", "snapshots"}
        return {"model": self.model_name, **{name: value for name, value in asdict(self.config).items() if name not in free}}

    def _log(self, done: int, loss: float) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        tokens = done * self._step_tokens
        with (self.work / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({"tokens": tokens, "step": done, "validation_loss": round(loss, 4), "time": round(time.time())}) + "\n")
        self.progress.note(f"{tokens / 1e6:.1f}M tokens: validation loss {loss:.3f}")

    def _snapshot(self, model: Any, optimizer: Optimizer, done: int) -> None:
        number_type = next(model.parameters()).dtype
        optimizer.weights.restore(model)
        with whole_folder(self.work / f"snapshot-{done * self._step_tokens / 1e6:.0f}M", overwrite=True) as folder:
            _save_weights(model, folder, torch.float16)
            self.tokenizer.save_pretrained(folder)
        set_number_type(model, number_type)

    def _save(self, model: Any, run: Trained) -> None:
        record = {
            "format": 1,
            "kind": "masked language model",
            "base_model": self.model_name,
            "config": {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self.config).items()},
            "tokens": run.steps * self._step_tokens,
            "validation": self.validation,
            "versions": versions(),
        }
        with whole_folder(self.output, overwrite=self.overwrite) as folder:
            _save_weights(model, folder, getattr(torch, self.config.save_dtype))
            self.tokenizer.save_pretrained(folder)
            (folder / "tain.json").write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")


def new_model(config: PretrainConfig, tokenizer: Any) -> Any:
    """Build a masked language model with random weights, dropout as the config says, input and output embeddings tied."""
    import transformers

    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.feed_forward,
        "max_position_embeddings": 512,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }
    if config.architecture == "bert":
        settings = transformers.BertConfig(**shared, hidden_dropout_prob=config.dropout, attention_probs_dropout_prob=config.dropout)
    else:
        shared["global_attn_every_n_layers"] = 1  # every layer sees the whole text: blocks are short
        settings = transformers.ModernBertConfig(
            **shared,
            embedding_dropout=config.dropout,
            mlp_dropout=config.dropout,
            attention_dropout=config.dropout,
            cls_token_id=tokenizer.cls_token_id,
            sep_token_id=tokenizer.sep_token_id,
            bos_token_id=tokenizer.cls_token_id,
            eos_token_id=tokenizer.sep_token_id,
        )
    return transformers.AutoModelForMaskedLM.from_config(settings)


def train_wordpiece(texts: Iterator[str], *, vocabulary: int) -> Any:
    """Train an uncased WordPiece tokenizer and return it as transformers wraps it."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary, min_frequency=2, limit_alphabet=256, special_tokens=list(SPECIAL_TOKENS), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    first, last = SPECIAL_TOKENS.index("[CLS]"), SPECIAL_TOKENS.index("[SEP]")  # the trainer numbers them in this order
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", last), ("[CLS]", first))
    return wrapped_tokenizer(tokenizer)


def wrapped_tokenizer(tokenizer: Any) -> Any:
    """Give a ``tokenizers`` tokenizer with BERT's special tokens the form that transformers saves and loads."""
    import transformers

    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names)


def tokens_of(texts: Iterator[str], tokenizer: Any, progress: Progress) -> np.ndarray:
    """Token ids of all texts one after the other, a separator behind each."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    separator = _boundary(tokenizer, "sep_token_id", "eos_token_id")
    number_type = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    pieces: list[np.ndarray] = []
    batch: list[str] = []

    def flush() -> None:
        ids = [token for encoding in backend.encode_batch(batch, add_special_tokens=False) for token in (*encoding.ids, separator)]
        pieces.append(np.array(ids, dtype=number_type))
        task.advance(len(batch), tokens=float(sum(map(len, pieces))))
        batch.clear()

    with progress.task("tokenise", None) as task:
        for text in texts:
            batch.append(text)
            if len(batch) == 4096:
                flush()
        if batch:
            flush()
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=number_type)


def _boundary(tokenizer: Any, *names: str) -> int:
    for name in names:
        if getattr(tokenizer, name, None) is not None:
            return int(getattr(tokenizer, name))
    raise UserError(f"the tokenizer has neither {' nor '.join(names)}: give a BERT-like masked language model")


def _first_ordinary_id(tokenizer: Any) -> int:
    """The id from which random replacements are drawn: behind the special tokens where those come first."""
    special = sorted(tokenizer.all_special_ids)
    return special[-1] + 1 if special == list(range(len(special))) else 0


def _doubling_steps(step_tokens: int) -> set[int]:
    return {math.ceil(2**power * 1e6 / step_tokens) for power in range(16)}


def _save_weights(model: Any, folder: Path, number_type: torch.dtype) -> None:
    before = next(model.parameters()).dtype
    set_number_type(model, number_type)
    model.config.dtype = number_type
    model.save_pretrained(folder)
    set_number_type(model, before)

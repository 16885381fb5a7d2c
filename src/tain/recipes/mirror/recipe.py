"""Turn a masked language model into an encoder by contrastive fine-tuning without labels (Mirror-BERT).

Liu et al. 2021. Each text is its own positive pair; dropout (or drophead) and an erased span make the two views differ. A step pulls
the two views of each text together and pushes the batch's other texts apart.
"""

import glob
import math
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tain.batches.ahead import Ahead
from tain.batches.order import ShuffledOrder, step_seed
from tain.batches.packing import batches_by_tokens, pack
from tain.batches.same_texts import same_texts
from tain.batches.tokenizing import mask_token, tokenise, tokenise_once
from tain.batches.types import KeptTexts, PackedTexts
from tain.batches.views import crop, special_ends, twin_views
from tain.encoders.depth import drop_context, install_token_vectors, scale_residuals
from tain.encoders.dropout import set_dropout
from tain.encoders.joining import join_static, refuse_unjoinable
from tain.encoders.pooling import sif_weights
from tain.encoders.transformer import TransformerEncoder
from tain.evaluation.baselines import Lexical
from tain.evaluation.label_free import TITLES, LabelFreeReport, label_free_report, label_free_score
from tain.foundation.errors import UserError
from tain.foundation.files import refuse_existing, whole_folder
from tain.foundation.locks import writes_output
from tain.foundation.machine import choose_device, keep_freed_memory
from tain.foundation.probing import unchanged
from tain.foundation.progress import Progress
from tain.models.correction_fitting import Moments, fit_joined, fit_whitening
from tain.models.embedder import Embedder
from tain.models.saved import locate, read_record
from tain.models.unknown_tokens import check_known
from tain.objectives.contrastive import prefix_info_nce, similarity_gap
from tain.recipes.mirror.config import MirrorConfig
from tain.recipes.mirror.curve import Curve, CurveRecord, WithBest, steps_between
from tain.recipes.mirror.data import CROPS, IDENTITY, PAIR, TrainingSet, has_documents, training_set
from tain.recipes.mirror.model_card import below_lexical, method_of, model_card
from tain.recipes.mirror.sizes import SizeFigures, figures_by_size
from tain.recipes.mirror.static import TokenVectors, combined_with_embeddings, taken, train_token_vectors
from tain.recipes.shared.settings import resolve_config, suggested_settings
from tain.text.collections import each_item
from tain.text.records import Sentence
from tain.training import distributed
from tain.training.checkpoint import (
    checkpoint_folder,
    checkpoint_folders,
    drop_leftovers,
    dtype_of,
    refuse_nothing_to_resume,
    refuse_to_lose,
)
from tain.training.gradcache import cached_gradients
from tain.training.loop import Saving, train
from tain.training.optimizer import MasterWeights, Optimizer, adamw, muon_and_adamw


@dataclass(frozen=True)
class Run:
    """Training result of one seed.

    Attributes:
        seed: Its seed.
        steps: Steps done.
        seconds: Time in the training loop.
        losses: Loss of each step.
        batch_texts: Texts per step.
        after: Label-free report of the trained encoder; None without held-out texts.
        curve: Self-retrieval during training; None if it was not measured.
    """

    seed: int
    steps: int
    seconds: float
    losses: list[float]
    batch_texts: int
    after: LabelFreeReport | None
    curve: CurveRecord | None = None


@dataclass(frozen=True)
class Mirrored:
    """A mirrored encoder with its runs and figures.

    Attributes:
        embedder: The new encoder, in eval mode.
        config: The resolved settings.
        before: The untouched model's label-free report; None without held-out texts.
        runs: Every seed's run.
        best: Index in ``runs`` of the run that ``embedder`` comes from.
        texts: Texts trained on.
        counts: Numbers of texts left out or cut: blank, repeated, held_out, left_over, truncated, not_read (by no step).
        worse: Reasons, in words, why the encoder looks worse than the untouched model; empty is good.
        folder: Where it was saved, if it was.
        lexical: Label-free report of the word-overlap baseline on the same held-out texts; None without them.
        base_model: The model that it was made from, under the name that the user gave.
        sizes: Figures of each trained prefix length and of the whole vectors; empty without ``dims`` or held-out texts.
    """

    embedder: Embedder
    config: MirrorConfig
    before: LabelFreeReport | None
    runs: list[Run]
    best: int
    texts: int
    counts: dict[str, int]
    worse: list[str]
    folder: Path | None = None
    lexical: LabelFreeReport | None = None
    base_model: str = ""
    sizes: tuple[SizeFigures, ...] = ()

    @property
    def after(self) -> LabelFreeReport | None:
        return self.runs[self.best].after

    @property
    def steps(self) -> int:
        return self.runs[self.best].steps

    def figures_of_seeds(self) -> list[dict[str, object] | None]:
        """Return every seed's label-free report for JSON; None without held-out texts."""
        return [run.after.to_dict() if run.after else None for run in self.runs]

    def _repr_html_(self) -> str:
        """The figures before and after, in a notebook."""
        from tain.recipes.mirror.model_card import html_summary

        return html_summary(self)

    def spread(self) -> dict[str, dict[str, float]]:
        """Return mean and standard deviation over seeds of each defined label-free figure; empty for one seed."""
        return {} if len(self.runs) < 2 else {name: found for name in TITLES if (found := spread(self.runs, name))}


@dataclass(frozen=True)
class _Batch:
    """Both views of a step's texts, as this process encodes them.

    Attributes:
        parts: Micro-batches.
        rows: For each part, the indices of its texts among this process's.
        total: Views over all processes.
        is_same: Which pairs share a text; None if no two do.
        teacher: Anchor vectors of all processes' texts; None without an anchor.
    """

    parts: list[PackedTexts]
    rows: list[list[int]]
    total: int
    is_same: Tensor | None
    teacher: Tensor | None = None


@writes_output
def mirror(
    model: str | Path,
    texts: Iterable[str] | Iterable[tuple[str, str]],
    output: str | Path | None = None,
    *,
    config: MirrorConfig | None = None,
    overwrite: bool = False,
    documents: Iterable[Iterable[str]] | Iterable[Sentence] | None = None,
    progress: Progress | bool | None = None,
    began_s: float | None = None,
    **settings: Any,
) -> Mirrored:
    """Turn a masked language model into an encoder, without labels.

    Args:
        model: A folder, a hub name, or ``tain-mini``.
        texts: Texts; or pairs of texts that mean the same, for weak supervision; or lines with document boundaries (``Sentence``).
        output: Folder to save the encoder in; None keeps it in memory only.
        config: All settings at once; or give settings by keyword.
        overwrite: Replace ``output`` if it exists, and, without ``resume``, the checkpoint of an interrupted run.
        documents: Documents for pairs of neighbouring sentences (``positives="neighbours"``), each a list of its lines or
            sentences. Default: the documents of ``texts``, if its items are ``Sentence``.
        progress: ``False`` shows nothing; ``None`` (default) shows a bar on a terminal or in a notebook; or a ``Progress``.
        began_s: Start time of ``budget_s``, by ``time.monotonic()``; default: now.
        **settings: Fields of ``MirrorConfig``.

    Returns:
        The encoder with its figures.

    Raises:
        UserError: Settings, texts or model are invalid.

    Example:
        >>> import tain
        >>> texts = [f"{who} {what} {where}" for who in ("she", "he") for what in ("sees", "hears") for where in ("a river", "the sea")]
        >>> result = tain.mirror("tain-mini", texts, "encoder", batch_texts=4, epochs=1, held_out=0)
        >>> result.embedder.encode("a small river").shape
        (384,)
        >>> tain.load("encoder").name
        'encoder'
    """
    began_s = time.monotonic() if began_s is None else began_s
    progress = Progress.resolve(progress)
    config = resolve_config(MirrorConfig, "mirror", config, settings)
    config.refuse_without_effect()
    if output is not None:
        refuse_existing(Path(output), overwrite=overwrite)
        if not config.resume:
            refuse_to_lose(checkpoint_folders(Path(output), seed=config.seed, seeds=config.seeds), overwrite=overwrite)
        else:
            _refuse_nothing_to_resume(Path(output), config)
    elif config.resume:
        raise UserError("resume continues from the checkpoint next to the output folder, but no output is given: give output")
    distributed.start_processes(config.device)
    if distributed.rank() > 0:
        progress = Progress.mute()  # only one process reports
    texts = list(each_item(texts))
    suggested = suggested_settings(read_record(locate(model)), name=model)
    config = config.for_texts(has_documents=documents is not None or has_documents(texts), suggested=suggested)
    data = training_set(texts, config, documents)
    if blank := data.counts["blank"]:
        progress.warn(f"{blank:,} {'pairs' if data.is_paired else 'texts'} with only whitespace were left out")
    device = choose_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    embedder = Embedder.load(model, device=str(device), dtype="float32", pooling=config.pooling, trust_remote_code=config.trust_remote_code)
    embedder.refuse_unusual("mirroring")
    if embedder.correction is not None:
        embedder.correction = None
        progress.warn(
            f"the correction of {str(model)!r} is dropped, because mirroring changes the vectors that it was fitted to: fit a new one afterwards"
        )
    check_known(embedder, data.left + data.right, progress=progress, is_training=True)
    if embedder.encoder.token_weights is not None and config.token_weights is None and config.recipe in ("default", "paper"):
        progress.warn(f"the token weights of {str(model)!r} are dropped: give --token-weights sif to fit token weights to your texts")
    untouched_pooling = embedder.pooling
    resolved = config.resolved(
        width=embedder.encoder.dim,
        weight_rms=_weight_rms(embedder.encoder),
        suggested=suggested,
        model_type=str(embedder.encoder.model.config.model_type),
    )
    config = _fit_to_model(resolved, embedder)
    if config.whiten and len(data.own_texts) <= embedder.encoder.dim:
        raise UserError(
            f"there are {len(data.own_texts):,} texts to fit the whitening to, but vectors of {embedder.encoder.dim} dimensions need more: "
            "give many more texts, or --whiten 0"
        )
    progress.note(embedder.encoder.layout_reason)
    folder = None if output is None else Path(output)
    trainer = MirrorTrainer(
        model, embedder, config, data, progress, folder, overwrite, began_s=began_s, untouched_pooling=untouched_pooling
    )
    return trainer.run()


def _refuse_nothing_to_resume(output: Path, config: MirrorConfig) -> None:
    if any(folder.exists() for folder in checkpoint_folders(output, seed=config.seed, seeds=config.seeds)):
        return
    others = sorted(output.parent.glob(f".{glob.escape(output.name)}.checkpoint-[0-9]*"))
    if others:
        seeds = ", ".join(folder.name.rpartition("-")[2] for folder in others)
        raise UserError(f"there is nothing to resume with seed {config.seed}, but a run with seed {seeds} can be resumed: give that --seed")
    refuse_nothing_to_resume(checkpoint_folder(output, config.seed))


def _fit_to_model(config: MirrorConfig, embedder: Embedder) -> MirrorConfig:
    assert config.max_tokens is not None and config.pooling is not None
    longest = embedder.max_tokens
    if config.max_tokens > longest:
        raise UserError(f"max_tokens is {config.max_tokens}, but the model reads {longest} at most: give {longest} or fewer")
    if config.join:
        refuse_unjoinable(embedder.encoder.model)
    if config.prefix_dims and config.prefix_dims[-1] >= embedder.encoder.dim:
        raise UserError(f"dims is {config.dims!r}, but the vectors have {embedder.encoder.dim} numbers: give shorter prefixes only")
    embedder.encoder.pooling = config.pooling
    embedder.encoder.padded_to = config.max_tokens
    return config


def _saved_pooling(pooling: str) -> str:
    """Pooling of the saved encoder; sentence-transformers has no mean over padding."""
    return "mean" if pooling == "mean-with-padding" else pooling


def _weight_rms(encoder: torch.nn.Module) -> float:
    """Root mean square of the hidden layers' matrices, each with equal weight."""
    tables = {id(module.weight) for module in encoder.modules() if isinstance(module, torch.nn.Embedding)}
    matrices = [
        weight.detach()
        for name, weight in encoder.named_parameters()
        if weight.ndim == 2 and id(weight) not in tables and "pooler." not in name  # unused by our pooling
    ]
    return float(np.mean([matrix.float().square().mean().sqrt().item() for matrix in matrices]))


class MirrorTrainer:
    """Trains all seeds on prepared texts, chooses the best and saves it."""

    def __init__(
        self,
        model: str | Path,
        embedder: Embedder,
        config: MirrorConfig,
        data: TrainingSet,
        progress: Progress,
        output: Path | None,
        overwrite: bool,
        *,
        began_s: float = 0.0,
        untouched_pooling: str = "mean",
    ) -> None:
        assert config.max_tokens is not None
        self.began_s = began_s
        self.untouched_pooling = untouched_pooling
        self.max_tokens = config.max_tokens
        self.model, self.embedder, self.config, self.data = model, embedder, config, data
        self.progress, self.output, self.overwrite = progress, output, overwrite
        self.weights_digest = embedder.fingerprint()[:12] if output is not None else ""  # of the untouched model
        self.dtype = distributed.choose_dtype(config.dtype, choose=embedder.encoder.choose_dtype, begun_in=self._begun_in)
        self.weights = MasterWeights(embedder.encoder.model, dtype=torch.float32)  # until a run makes its own
        self.teacher: TokenVectors | None = None
        self.trained = embedder.encoder  # trained by every seed; in the embedder, a joined encoder may replace it
        needs_mask = bool(config.erased_chars) and bool((data.kinds == IDENTITY).any())
        self.mask_token = mask_token(embedder.tokenizer) if needs_mask else ""
        right = [] if data.is_of_single_texts else data.right
        kept_right = [] if data.is_of_single_texts else self._kept_right
        keys, self.alike = same_texts([*data.left, *right], chain(self._kept_left, kept_right))
        self.left_keys = keys[: len(data.left)]
        self.right_keys = self.left_keys if data.is_of_single_texts else keys[len(data.left) :]
        if len(set(keys.tolist())) < 2:
            raise UserError(
                f"all {len(keys):,} texts have the same {len(self._kept_left[0])} tokens when cut at {self.max_tokens}, so there is "
                "nothing to learn: raise --max-tokens, or give other texts"
            )

    def _elapsed_s(self) -> float:
        """Seconds since the budget began."""
        return time.monotonic() - self.began_s

    def run(self) -> Mirrored:
        config, encoder = self.config, self.embedder.encoder
        assert config.dropout is not None and config.attention_dropout is not None and config.epochs is not None
        if config.budget_s is not None and (over_s := distributed.from_first(self._elapsed_s)) > config.budget_s:
            raise UserError(f"budget is {config.budget_s:g} s, and {over_s:.0f} s had passed when the model was loaded: give more")
        before, report_s = self._timed_report()
        if config.refuse_worse and before is None:
            raise UserError(
                f"refuse_worse needs held-out texts, but {len(self.data.held_left)} are too few to measure on: give more texts, or leave it out"
            )
        sizes_before = self._figures_by_size(self.untouched_pooling)
        self._set_up_encoder()
        if before is None:
            tell = self.progress.warn if config.held_out else self.progress.note
            tell(f"{len(self.data.held_left)} held-out texts are too few to measure on, so there are no figures of before and after")
        set_dropout(encoder.model, hidden=config.dropout, attention=config.attention_dropout)
        kept = [self._kept_left] if self.data.is_of_single_texts else [self._kept_left, self._kept_right]
        read, truncated = sum(map(len, kept)), sum(each.truncated for each in kept)
        if truncated:
            self.progress.warn(
                f"{truncated:,} of {read:,} texts are longer than {config.max_tokens} tokens and were cut: raise --max-tokens to keep them whole"
            )
        if self.alike:
            self.progress.warn(
                f"{self.alike:,} of {read:,} texts have the same first {config.max_tokens} tokens as others, so they are not used as each other's "
                "negatives; raise --max-tokens if they differ further on"
            )
        if config.trains and config.budget_s is None and (steps := self._plan(config.seed, 0.0)[1]) < _FEWEST_STEPS:
            self.progress.warn(
                f"{len(self.data.left):,} texts give only {steps} steps of {config.batch_texts}, too few to learn much: give more texts, or a smaller --batch-texts"
            )
        if config.trains:
            with unchanged(encoder):
                self._check_views()
        untouched = {name: tensor.detach().clone() for name, tensor in encoder.state_dict().items()} if config.seeds > 1 else {}
        runs: list[Run] = []
        best, best_state, best_correction, best_encoder = 0, {}, None, encoder
        for number in range(config.seeds):
            if number:
                encoder.load_state_dict(untouched)
            run = self._train_one(config.seed + number, report_s if before is not None else 0.0) if config.trains else self._untrained()
            runs.append(run)
            if config.seeds > 1:
                self.progress.note(f"seed {run.seed}: {_figures_in_words(run.after)}")
                if number == 0 or _score(run) > _score(runs[best]):
                    best, best_state = number, {name: tensor.detach().clone() for name, tensor in encoder.state_dict().items()}
                    best_correction, best_encoder = self.embedder.correction, self.embedder.encoder
        if config.seeds > 1:
            encoder.load_state_dict(best_state)
            self.embedder.correction, self.embedder.encoder = best_correction, best_encoder
        if encoder.pooling != _saved_pooling(encoder.pooling):
            encoder.pooling = _saved_pooling(encoder.pooling)
            tell = self.progress.note if config.recipe == "paper" else self.progress.warn
            tell(f"trained with {config.pooling}, which saved encoders do not support: the encoder and its figures use mean pooling")
        after = runs[best].after
        worse = after.is_worse_than(before) if before is not None and after is not None else []
        used = self._texts_used(runs[best].steps)
        mine = {"truncated": truncated, "not_read": self._texts_at_hand() - used, "sharing": self._sharing()}
        counts = {**self.data.counts, **mine}
        self.embedder.name = str(self.output or f"{self.embedder.name} mirrored")
        lexical = self._lexical_report()
        if config.refuse_worse and distributed.from_first(lambda: worse):
            self._refuse_worse(worse)
        sizes = tuple(after.with_before(was) for was, after in zip(sizes_before, self._figures_by_size(encoder.pooling), strict=True))
        result = Mirrored(self.embedder, config, before, runs, best, used, counts, worse, self.output, lexical, str(self.model), sizes)
        if self.output is not None and distributed.rank() == 0:
            self._save(result)
        distributed.wait_for_all()
        if worse:
            self.progress.warn("THE NEW ENCODER LOOKS WORSE THAN THE UNTOUCHED MODEL: " + "; ".join(worse))
        if sentence := below_lexical(lexical.to_dict() if lexical else None, after.to_dict() if after else None):
            self.progress.warn(sentence)
        return result

    def _refuse_worse(self, worse: list[str]) -> None:
        """Remove the checkpoints of the run and refuse to save.

        Raises:
            UserError: Always.
        """
        if self.output is not None and distributed.rank() == 0:
            for left in checkpoint_folders(self.output, seed=self.config.seed, seeds=self.config.seeds):
                shutil.rmtree(left, ignore_errors=True)
        distributed.wait_for_all()
        raise UserError(
            f"the new encoder is worse than the untouched model ({'; '.join(worse)}), so nothing was saved: give more texts, a lower"
            " --learning-rate or another --recipe, or leave --refuse-worse out"
        )

    def _figures_by_size(self, pooling: Pooling) -> list[SizeFigures]:
        """Measure every trained prefix length and the whole vectors on the held-out texts; empty without ``dims``."""
        if not self.config.prefix_dims or len(self.data.held_left) < 2:
            return []
        encoder = self.embedder.encoder
        trained_pooling, encoder.pooling = encoder.pooling, _saved_pooling(pooling)
        with self._computing():
            found = figures_by_size(self.embedder, self.data.held_left, (*self.config.prefix_dims, encoder.dim), level=self.config.level)
        encoder.pooling = trained_pooling
        return found

    def _curve(self, steps: int, batch_texts: int) -> Curve | None:
        """The learning curve of a run; None if it is off, or there is nothing to measure on."""
        config, held = self.config, self.data.held_left[:500]
        if config.curve_steps == 0:
            return None
        every = config.curve_steps or steps_between(steps, batch_texts=batch_texts, held_texts=len(held))
        patience = config.patience if config.stop_early else 0
        curve = Curve(
            held,
            level=config.level,
            encode=self._encoded,
            every=every,
            weights=self.weights,
            keeps_best=config.keeps_best,
            patience=patience,
        )
        if not curve.can_measure and (config.stop_early or config.keeps_best):
            raise UserError(
                "stop_early and keep_best need two held-out texts that can be halved: give more or longer texts, or leave them out"
            )
        return curve if curve.can_measure else None

    def _encoded(self, texts: list[str]) -> np.ndarray:
        return self.embedder.encode(texts, normalize=True)

    def _texts_at_hand(self) -> int:
        return len(self.data.left if self.config.trains else self.data.own_texts)

    def _texts_used(self, steps: int) -> int:
        return min(len(self.data.left), steps * self._batch_texts) if self.config.trains else len(self.data.own_texts)

    def _timed_report(self) -> tuple[LabelFreeReport | None, float]:
        began_s = time.monotonic()
        report = self._report(self.untouched_pooling)
        return report, time.monotonic() - began_s

    def _report(self, pooling: str) -> LabelFreeReport | None:
        """Measure on held-out texts with this pooling: the untouched model as loaded, or the encoder as it will be saved."""
        if len(self.data.held_left) < 2:
            return None
        twins = self.data.held_right if self.data.is_paired else None
        encoder = self.embedder.encoder
        trained_pooling, encoder.pooling = encoder.pooling, _saved_pooling(pooling)
        # both reports use the training's data type: in float32 the first report would take twice as long
        with self._computing():
            report = label_free_report(
                self.embedder,
                self.data.held_left,
                twins=twins,
                level=self.config.level,
                max_texts=500,
                rng=np.random.default_rng([self.config.seed, 2]),
            )
        encoder.pooling = trained_pooling
        return report

    def _lexical_report(self) -> LabelFreeReport | None:
        """Measure the word-overlap baseline on the texts of ``_report``."""
        if len(self.data.held_left) < 2:
            return None
        rng = np.random.default_rng([self.config.seed, 2])
        return label_free_report(Lexical(), self.data.held_left, level=self.config.level, max_texts=500, rng=rng)

    def _check_views(self) -> None:
        """Check on a sample that dropout works and that the two views of a text differ.

        Raises:
            UserError: The views are identical for every text of the sample.
        """
        config = self.config
        drops = config.dropout or config.attention_dropout or config.drophead
        if config.allow_identical_views or not (drops or self.data.is_identity):
            return
        assert config.erased_chars is not None and config.erase_min_chars is not None
        fewest = max(config.erase_min_chars, config.erased_chars + 1) if config.erased_chars else math.inf
        whole = sum(len(text) < fewest for text in self.data.left)
        if not drops and 0 < whole < len(self.data.left):
            self.progress.warn(
                f"{whole:,} of {len(self.data.left):,} texts have fewer than {fewest} characters, so nothing is erased, and there is no dropout, so "
                "their two views are identical and teach little: lower --erase-min-chars, or raise --dropout"
            )
        # the longest texts: if any text is erased, these are
        indices = np.argsort([-len(text) for text in self.data.left], kind="stable")[:16]
        encoder = self.embedder.encoder.train()
        torch.manual_seed(step_seed(config.seed, 0, 999))
        views = self._views(indices, step=0, seed=config.seed)
        # with dropout, test it alone: erased spans would hide a model with a fixed dropout rate
        first, second = pack(views[0]), pack(views[0] if drops else views[1])
        for _ in range(4 if drops else 1):  # a low rate may drop nothing by chance in a small model
            with torch.no_grad():
                left, right = (encoder(each, drophead=config.drophead) for each in (first, second))
            if ((left - right).norm(dim=1) > 1e-5 * left.norm(dim=1)).any():
                return
        if drops:
            raise UserError(
                f"dropout is {config.dropout} and drophead {config.drophead}, but two passes of {type(encoder.model).__name__} over the same texts give "
                "the same vectors, so its dropout cannot be set: give another model, or --dropout 0 --attention-dropout 0 to rely on erased spans"
            )
        raise UserError(
            f"the two views of every text are identical (dropout {config.dropout}, drophead {config.drophead}, "
            f"{config.erased_chars} characters erased), so there is nothing to learn: raise one of them (dropout 0.1)"
        )

    def _views(self, indices: np.ndarray, *, step: int, seed: int) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids of the left and right views of some texts."""
        texts = indices.tolist()
        rng = np.random.default_rng([seed, 3, step])
        left = [self._kept_left[text] for text in texts]
        right = left.copy()
        by_kind = {kind: [index for index, text in enumerate(texts) if self.data.kinds[text] == kind] for kind in (IDENTITY, CROPS, PAIR)}
        for index, ids in zip(by_kind[IDENTITY], self._erased([texts[index] for index in by_kind[IDENTITY]], rng), strict=True):
            right[index] = ids
        for index in by_kind[CROPS]:
            left[index], right[index] = (crop(self._kept_left[texts[index]], ends=self._ends, rng=rng) for _ in range(2))
        for index in by_kind[PAIR]:
            right[index] = self._kept_right[texts[index]]
        return left, right

    def _erased(self, texts: list[int], rng: np.random.Generator) -> list[list[int]]:
        """Token ids of some texts with a span of characters erased."""
        assert self.config.erased_chars is not None and self.config.erase_min_chars is not None
        left, right = twin_views(
            [self.data.left[text] for text in texts],
            chars=self.config.erased_chars,
            floor=self.config.erase_min_chars,
            mask_token=self.mask_token,
            rng=rng,
        )
        ids = [self._kept_left[text] for text in texts]
        cut = [index for index, (text, twin) in enumerate(zip(left, right, strict=True)) if text != twin]
        cut_ids = tokenise(self.embedder.tokenizer, [right[index] for index in cut], max_tokens=self.max_tokens).ids
        for index, erased in zip(cut, cut_ids, strict=True):
            ids[index] = erased
        return ids

    @cached_property
    def _ends(self) -> tuple[int, int]:
        """Numbers of special tokens at the start and end of a text."""
        return special_ends(self.embedder.tokenizer)

    @cached_property
    def _kept_left(self) -> KeptTexts:
        return tokenise_once(self.embedder.tokenizer, self.data.left, max_tokens=self.max_tokens)

    @cached_property
    def _kept_right(self) -> KeptTexts:
        return tokenise_once(self.embedder.tokenizer, self.data.right, max_tokens=self.max_tokens)

    def _sharing(self) -> int:
        """Number of training pairs that share a text with another pair; such pairs are not each other's negatives."""
        pairs = np.stack([self.left_keys, self.right_keys])
        pairs[1, pairs[1] == pairs[0]] = -1  # count it once
        counts = np.bincount(pairs[pairs >= 0], minlength=1)
        return int(np.count_nonzero((counts[pairs] > 1).any(axis=0, where=pairs >= 0)))

    def _is_same(self, indices: np.ndarray) -> Tensor | None:
        """Which pairs of the batch share a text; None if no two do."""
        left, right = self.left_keys[indices], self.right_keys[indices]
        shared = (left[:, None] == left) | (right[:, None] == right) | (left[:, None] == right) | (right[:, None] == left)
        np.fill_diagonal(shared, False)
        return torch.from_numpy(shared) if shared.any() else None

    def batch(self, indices: np.ndarray, *, step: int, seed: int) -> _Batch:
        """Sample the views of some texts and pack them."""
        left, right = self._views(indices, step=step, seed=seed)
        ids = [ids for pair in zip(left, right, strict=True) for ids in pair]  # rows: left 0, right 0, left 1, right 1, ...
        mine = ids[distributed.share_of(len(ids))]
        rows = list(batches_by_tokens([len(text) for text in mine], batch_tokens=self.config.micro_batch_tokens))
        parts = [pack([mine[row] for row in part], share_rows=self.embedder.encoder.layout == "packed") for part in rows]
        teacher = None if self.teacher is None else self.teacher.encode(ids)
        return _Batch(parts, rows, len(ids), self._is_same(indices), teacher)

    def gradient_step(self, batch: _Batch, *, step: int, seed: int) -> float:
        """Compute the gradient of one batch, leave it in the model, and return the loss."""
        encoder = self.embedder.encoder
        is_same = None if batch.is_same is None else batch.is_same.to(encoder.device)

        def embed(part: PackedTexts) -> Tensor:
            return encoder(part, drophead=self.config.drophead)

        def loss(vectors: Tensor) -> Tensor:
            assert self.config.temperature is not None
            left, right, dims = vectors[0::2], vectors[1::2], self.config.prefix_dims
            contrast = prefix_info_nce(left, right, dims=dims, temperature=self.config.temperature, is_same=is_same)
            if batch.teacher is None or not self.config.anchor:
                return contrast
            return contrast + self.config.anchor * similarity_gap(vectors, batch.teacher.to(vectors.device))

        def reseed(part: int) -> None:
            torch.manual_seed(step_seed(seed, step, part * distributed.world_size() + distributed.rank()))

        take = self.weights.take_gradients  # sum parts and processes in float32: bfloat16 sums lose small terms
        value = cached_gradients(batch.parts, rows=batch.rows, embed=embed, loss=loss, reseed=reseed, total=batch.total, after_part=take)
        if distributed.world_size() > 1:
            take()
            distributed.sum_gradients(self.weights.masters)
        return value

    def _untrained(self) -> Run:
        """The run of a recipe without training steps."""
        self._batch_texts = 0
        self._whiten()
        return Run(self.config.seed, 0, 0.0, [], 0, self._report(self.embedder.encoder.pooling))

    def _train_one(self, seed: int, report_s: float) -> Run:
        config, encoder = self.config, self.embedder.encoder
        assert config.learning_rate is not None and config.epochs is not None
        self.weights = weights = MasterWeights(encoder.model, dtype=self.dtype)
        self.embedder.correction, self.embedder.encoder = None, self.trained  # left by the previous seed
        optimizer = self._optimizer(weights)
        encoder.train()
        batch_texts, steps, enough = self._plan(seed, report_s)
        distributed.refuse_idle_processes(2 * batch_texts, what="views")
        self._batch_texts = batch_texts
        order = ShuffledOrder(len(self.data.left), batch_texts=batch_texts, seed=seed)
        curve = self._curve(steps, batch_texts)
        if curve is not None:
            curve.begin()
        # one thread, because tokenizers are not thread-safe; none on a CPU, where all cores are busy
        workers = 0 if encoder.device.type == "cpu" else 1
        with Ahead(lambda step: self.batch(order.batch(step), step=step, seed=seed), workers=workers) as coming:
            trained = train(
                lambda step: self.gradient_step(coming(step), step=step, seed=seed),
                optimizer if curve is None else WithBest(optimizer, curve),
                steps=steps,
                progress=self.progress,
                name="mirror" if config.seeds == 1 else f"mirror, seed {seed}",
                saving=self._saving(seed, batch_texts, steps),
                enough=enough if curve is None else lambda done: curve.enough(done) or (enough is not None and enough(done)),
                after_step=None if curve is None else curve.after_step,
                memory=None if curve is None else curve.memory,
            )
        measured = None if curve is None else curve.finish(trained.steps)
        weights.restore(encoder.model)
        encoder.eval()
        self._join() if config.join else self._whiten()
        return Run(seed, trained.steps, trained.seconds, trained.losses, batch_texts, self._report(encoder.pooling), measured)

    def _optimizer(self, weights: MasterWeights) -> Optimizer:
        config = self.config
        assert config.learning_rate is not None
        if config.optimizer != "muon":
            return adamw(weights, learning_rate=config.learning_rate, weight_decay=config.weight_decay)
        assert config.matrix_learning_rate is not None
        return muon_and_adamw(
            weights,
            matrix_learning_rate=config.matrix_learning_rate,
            embedding_learning_rate=config.learning_rate,
            other_learning_rate=config.learning_rate,
            embeddings=[name for name in weights.names if "embedding" in name],
            weight_decay=config.weight_decay,
        )

    def _set_up_encoder(self) -> None:
        """Set up layers, pooling and token weights as the recipe needs them."""
        config, encoder = self.config, self.embedder.encoder
        if config.trains_token_vectors:
            self.teacher = self._token_vectors()  # from the embeddings before training
        if not config.trains:
            drop_context(encoder.model)
        elif config.residual_scale < 1:
            scale_residuals(encoder.model, config.residual_scale)
        encoder.token_weights = None
        if config.token_weights == "sif":
            assert config.sif_smoothing is not None
            own = tokenise_once(self.embedder.tokenizer, self.data.own_texts, max_tokens=self.max_tokens)
            counts = torch.bincount(torch.from_numpy(own.ids).long(), minlength=int(encoder.model.config.vocab_size))
            encoder.token_weights = sif_weights(counts, smoothing=config.sif_smoothing).to(encoder.device)
        if not config.trains and self.teacher is not None:
            table = self.teacher.table
            if config.level == "word":
                embeddings = encoder.model.get_input_embeddings().weight.detach().cpu()
                table = combined_with_embeddings(self.teacher, embeddings, special=self._special_ids())
            encoder.token_weights = install_token_vectors(encoder.model, table.to(encoder.device))

    def _special_ids(self) -> list[int]:
        """Ids of special tokens, without the unknown token, which stands for a word."""
        return [token for token in self.embedder.tokenizer.all_special_ids if token != self.embedder.tokenizer.unk_token_id]

    def _token_vectors(self) -> TokenVectors:
        """Train token vectors on all pairs of neighbours; if all positives are made of single texts, only whiten them."""
        config, data = self.config, self.data
        pairs = data.pool or list(zip(data.left, data.right, strict=True))
        numbers: dict[str, int] = {}  # most sentences are in two pairs, and are tokenised once
        sides = [np.fromiter((numbers.setdefault(pair[side], len(numbers)) for pair in pairs), np.int64, len(pairs)) for side in (0, 1)]
        texts = tokenise_once(self.embedder.tokenizer, list(numbers), max_tokens=max(self.max_tokens, _BAG_TOKENS))
        left, right = (taken(texts, side) for side in sides)
        most = 0 if data.is_of_single_texts else config.anchor_pairs
        if config.budget_s is not None:
            most = min(most, int(_PAIRS_A_SECOND * _TEACHERS_SHARE * config.budget_s))
        table = self.embedder.encoder.model.get_input_embeddings().weight.detach().cpu()
        special = self._special_ids()
        return train_token_vectors(table, left, right, special=special, max_pairs=most, seed=config.seed, progress=self.progress)

    def _join(self) -> None:
        """Join the trained encoder with the token vectors and fit their relative weight."""
        config, trained, teacher = self.config, self.trained, self.teacher
        assert teacher is not None and config.whiten is not None
        weights = torch.ones(len(teacher.table)) if trained.token_weights is None else trained.token_weights.cpu()
        table = (teacher.table / weights[:, None]).to(trained.device)
        texts = self.data.own_texts[: _JOINING_TEXTS if config.budget_s is None else _FEWEST_JOINING_TEXTS]

        def joined(table: Tensor) -> TransformerEncoder:
            model = join_static(trained.model, table)
            return TransformerEncoder(model, pooling=trained.pooling, pad_id=trained.pad_id, token_weights=trained.token_weights).eval()

        self.embedder.encoder = joined(table)
        self.embedder.encoder = joined(table / self._shown_lengths(texts, table)[:, None])
        moments = self._moments()
        self.embedder.correction = fit_joined(moments, powers=(config.whiten, _STATIC_WHITENING), dimensions=trained.dim)

    @torch.no_grad()
    def _shown_lengths(self, texts: Sequence[str], table: Tensor) -> Tensor:
        """Output length over input length of each token's vector in the joined encoder; 1 on average."""
        encoder = self.embedder.encoder
        width = table.shape[1]
        rows = table - table.mean(dim=1, keepdim=True)
        sums, counts = torch.zeros(2, len(table), device=table.device)
        ids = tokenise(self.embedder.tokenizer, texts, max_tokens=self.max_tokens).ids
        with self._computing():
            for batch in batches_by_tokens([len(text) for text in ids], batch_tokens=8192):
                packed = pack([ids[text] for text in batch]).to(table.device)
                carried = encoder.tokens(packed)[:, width:].float()
                own = rows[packed.ids]
                shares = (carried * own).sum(dim=1) / own.square().sum(dim=1).clamp(min=1e-12)
                sums.index_add_(0, packed.ids, shares)
                counts.index_add_(0, packed.ids, torch.ones_like(shares))
        is_known = (counts > 0) & (rows.norm(dim=1) > 0)
        lengths = torch.where(is_known, sums / counts.clamp(min=1), torch.zeros_like(sums))
        mean = lengths[is_known].mean()
        return torch.where(is_known, lengths / mean, torch.ones_like(lengths)).clamp(min=0.1)

    @property
    def _budgeted_whitening_texts(self) -> int:
        """Texts to fit the whitening to in a budget; the time that a run reserves counts them."""
        return max(_FEWEST_WHITENING_TEXTS, 4 * self.trained.dim)

    def _moments(self) -> Moments:
        """Mean and covariance of the current encoder's vectors of the user's training texts."""
        texts = self.data.own_texts
        moments = Moments(self.embedder.encoder.dim)
        most = _WHITENING_TEXTS if self.config.budget_s is None else self._budgeted_whitening_texts
        with self._computing():
            for start in range(0, min(len(texts), most), _WHITENING_TEXTS_AT_ONCE):
                end = min(start + _WHITENING_TEXTS_AT_ONCE, most)
                moments.add(self.embedder.encode(texts[start:end], normalize=False))
        return moments

    def _reports_after_training(self) -> float:
        """Cost of the work after training, in units of one label-free report (about a thousand encoded texts)."""
        if not self.config.whiten:
            return 1.5  # the last point of the curve takes half a report
        fitted = self._budgeted_whitening_texts / 1000
        if not self.config.join:
            return 1.5 + fitted
        return 0.5 + _JOINED_COST * (1.0 + fitted + _FEWEST_JOINING_TEXTS / 1000)

    def _whiten(self) -> None:
        """Fit the whitening to the user's training texts and attach it to the encoder."""
        config = self.config
        if not config.whiten:
            return
        moments = self._moments()
        self.embedder.correction = fit_whitening(moments, power=config.whiten).correction

    def _computing(self) -> Any:
        """Encode in the data type of the training."""
        device = self.embedder.encoder.device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def _saving(self, seed: int, batch_texts: int, steps: int) -> Saving | None:
        if self.output is None:
            return None
        skipped = {"resume", "seeds", "checkpoint_every_s", "device", "dtype", "refuse_worse"}
        identity = {name: value for name, value in asdict(self.config).items() if name not in skipped}
        identity |= {"model": str(self.model), "seed": seed, "batch_texts": batch_texts, "steps": steps, "texts": self.data.digest()}
        identity |= {"number_type": str(self.dtype), "content of the model": self.weights_digest}
        # runs with a budget cannot be resumed, and writing checkpoints takes time
        every_s = self.config.checkpoint_every_s if distributed.rank() == 0 and self.config.budget_s is None else None
        folder = checkpoint_folder(self.output, seed)
        # a seed without a checkpoint is trained again, with the same result
        since = {name: getattr(MirrorConfig(), name) for name in ("dims", "curve_steps", "stop_early", "patience", "keep_best")}
        return Saving(folder, every_s, self.config.resume and folder.exists(), identity, since)

    def _begun_in(self) -> str | None:
        """The data type of the resumed run."""
        return (
            dtype_of(checkpoint_folders(self.output, seed=self.config.seed, seeds=self.config.seeds))
            if self.config.resume and self.output is not None
            else None
        )

    def _plan(self, seed: int, report_s: float) -> tuple[int, int, Callable[[int], bool] | None]:
        """Choose batch size and steps: the preset's, or what fits the budget on this machine."""
        config, texts = self.config, len(self.data.left)
        assert config.epochs is not None
        if config.budget_s is None:
            return config.batch_texts, (texts // config.batch_texts) * config.epochs, None
        budget_s = config.budget_s
        reserve_s = report_s * self._reports_after_training() + _saving_estimate_s(self.embedder.encoder)
        seconds_per_text = self._measure_text_s(seed)
        seconds_per_text, room_s = distributed.from_first(lambda: [seconds_per_text, budget_s - self._elapsed_s() - reserve_s])
        fits = math.floor(room_s / seconds_per_text)
        if fits < 2 * _FEWEST_STEPS:
            needed_s = config.budget_s - room_s + 2 * _FEWEST_STEPS * seconds_per_text
            raise UserError(
                f"budget is {config.budget_s:g} s, but this model needs {needed_s:.0f} s on this machine: give more time, or a smaller model"
            )
        wanted = texts * config.epochs
        batch_texts = min(config.batch_texts, max(2, min(fits, wanted) // _FEWEST_STEPS), texts)
        steps = texts // batch_texts * config.epochs  # an upper bound: the clock ends the run, the measurement only chooses the batch size
        expected = min(steps, fits // batch_texts)
        self.progress.note(
            f"budget {config.budget_s:g} s: one text takes {1000 * seconds_per_text:.1f} ms on this machine, so about {expected} steps of {batch_texts} texts fit"
        )
        deadline_s = config.budget_s - reserve_s
        step_s: list[float] = []
        last = [self._elapsed_s()]

        def is_late() -> bool:
            now = self._elapsed_s()
            step_s.append(now - last[0])
            last[0] = now
            return now + float(np.median(step_s[-5:])) > deadline_s

        def enough(done: int) -> bool:
            return distributed.from_first(is_late)

        return batch_texts, steps, enough

    def _measure_text_s(self, seed: int) -> float:
        """Time gradient steps on a few texts; weights, gradients and random state are unchanged."""
        indices = np.arange(min(len(self.data.left), 2 * _FEWEST_STEPS))
        taken_s = []
        with unchanged(self.embedder.encoder, masters=self.weights.masters):
            for trial in range(3):
                began_s = time.monotonic()
                self.gradient_step(self.batch(indices, step=trial, seed=seed), step=trial, seed=seed)
                taken_s.append(time.monotonic() - began_s)
        return min(taken_s[1:]) / len(indices)

    def _save(self, result: Mirrored) -> None:
        assert self.output is not None
        record = {
            "kind": "encoder",
            "method": method_of(result.config, is_paired=self.data.is_paired),
            "pairs": self.data.is_paired,
            "base_model": str(self.model),
            "config": asdict(result.config) | {"batch_texts": result.runs[result.best].batch_texts},
            "texts": result.texts,
            "steps": result.steps,
            "counts": result.counts,
            "seeds": [run.seed for run in result.runs],
            "best_seed": result.runs[result.best].seed,
            "layout": self.embedder.layout,
            "number_type": str(self.dtype).removeprefix("torch."),
            "training_s": round(result.runs[result.best].seconds, 2),
            "final_loss": result.runs[result.best].losses[-1] if result.runs[result.best].losses else None,
            "figures": {
                "pooling_before": self.untouched_pooling,
                "before": result.before.to_dict() if result.before else None,
                "after": result.after.to_dict() if result.after else None,
                "lexical": result.lexical.to_dict() if result.lexical else None,
                "all_seeds": result.figures_of_seeds(),
                "spread": result.spread(),
            },
            "worse": result.worse,
        }
        if (curve := result.runs[result.best].curve) is not None:
            record["curve"] = curve.to_dict()
        if result.sizes:
            record["sizes"] = [asdict(size) for size in result.sizes]
        if suggested := suggested_settings(self.embedder.record, name=self.model):
            record["mirror"] = suggested  # suggestions for the model also apply to encoders made from it
        with whole_folder(self.output, overwrite=self.overwrite, was_free=True) as folder:
            self.embedder.save(folder, record=record, card=model_card(self.output.name, record))
        for left in checkpoint_folders(self.output, seed=self.config.seed, seeds=self.config.seeds):
            shutil.rmtree(left, ignore_errors=True)
            drop_leftovers(left)


_PAIRS_A_SECOND, _TEACHERS_SHARE = 7000, 0.15  # of token vectors on one core, and of a budget
_BAG_TOKENS = 128  # a text of token vectors is read so far at least: a bag of words costs little
_JOINING_TEXTS, _FEWEST_JOINING_TEXTS = 4000, 500  # the second in a budget, as below
_JOINED_COST = 3.0  # of encoding, over that of the encoder itself
_STATIC_WHITENING = 0.3  # of token vectors, which are nearly white already
_WHITENING_TEXTS, _FEWEST_WHITENING_TEXTS = 10_000, 1600  # more change the covariance little and take longer
_WHITENING_TEXTS_AT_ONCE = 4096
_FEWEST_STEPS = 16  # fewer steps teach little, so a small budget gets smaller batches


def _saving_estimate_s(encoder: torch.nn.Module) -> float:
    bytes_written = 4 * sum(parameter.numel() for parameter in encoder.parameters())
    return 0.5 + bytes_written / 300e6


def _score(run: Run) -> float:
    return label_free_score(run.after) if run.after is not None else -run.losses[-1]


def _figures_in_words(report: LabelFreeReport | None) -> str:
    if report is None:
        return "no held-out texts to measure on"
    return f"self-retrieval MRR {report.self_retrieval_mrr:.3f}, alignment {report.alignment:.3f}, uniformity {report.uniformity:.3f}"


def spread(runs: Sequence[Run], figure: str) -> dict[str, float]:
    """Mean and standard deviation (0 for a single one) of a label-free figure over runs; empty if no run has it."""
    values = [value for run in runs if run.after is not None and not math.isnan(value := getattr(run.after, figure))]
    if not values:
        return {}
    return {"mean": float(np.mean(values)), "standard_deviation": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}

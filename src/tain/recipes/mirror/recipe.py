"""Turn a masked language model into an encoder by contrastive fine-tuning without labels (Mirror-BERT).

Liu et al. 2021. Each text is its own positive pair; dropout (or drophead) and an erased span make the two views differ. A step pulls
the two views of each text together and pushes the batch's other texts apart.
"""

import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from tain.encoders.dropout import set_dropout
from tain.evaluation.label_free import TITLES, LabelFreeReport, label_free_score
from tain.foundation.errors import UserError
from tain.foundation.locks import writes_output
from tain.foundation.probing import unchanged
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.models.saved import locate, read_record
from tain.models.unknown_tokens import check_known
from tain.recipes.mirror.budget import Budget, plan_for_budget, plan_of, saving_estimate_s
from tain.recipes.mirror.config import MirrorConfig, ResolvedMirrorConfig
from tain.recipes.mirror.curve import CurveRecord, curve_for
from tain.recipes.mirror.data import TrainingSet, has_documents, training_set
from tain.recipes.mirror.finishing import StaticShare, cost_in_reports, finish
from tain.recipes.mirror.measuring import held_out_report, held_out_sizes, lexical_report, saved_pooling
from tain.recipes.mirror.model_card import below_lexical, method_of, model_card
from tain.recipes.mirror.preparing import prediction_model, refuse_unfit, set_limits, set_up, weight_rms
from tain.recipes.mirror.sizes import SizeFigures
from tain.recipes.mirror.trainer import FEWEST_STEPS, trainer_for
from tain.recipes.mirror.views import TokenisedPairs, check_views
from tain.recipes.shared.run import (
    RunOutput,
    join_processes,
    run_device,
    seed_identity,
    seeds_record,
    spread,
    tell_negatives,
    train_seeds,
)
from tain.recipes.shared.settings import resolve_config, suggested_settings
from tain.text.collections import each_item
from tain.text.records import Sentence
from tain.training import distributed

_ADDED = (
    *("dims", "curve_steps", "stop_early", "patience", "keep_best"),
    *("repeat_share", "queue_texts", "momentum", "noise_negatives", "head", "mlm_weight", "decoder_weight", "prompt", "static_share"),
)  # settings that older checkpoints lack


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
        static_share: Share of the token vectors; None if the encoder is not joined.
    """

    seed: int
    steps: int
    seconds: float
    losses: list[float]
    batch_texts: int
    after: LabelFreeReport | None
    curve: CurveRecord | None = None
    static_share: StaticShare | None = None


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
    config: ResolvedMirrorConfig
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
        reports = [run.after for run in self.runs if run.after is not None]
        values = {name: [value for one in reports if not math.isnan(value := getattr(one, name))] for name in TITLES}
        return {} if len(self.runs) < 2 else {name: spread(of_seeds) for name, of_seeds in values.items() if of_seeds}


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

    Examples:
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
    place = RunOutput.of_seeds(output, config, overwrite=overwrite, inputs=[model])
    progress = join_processes(config.device, progress)
    texts = list(each_item(texts))
    suggested = suggested_settings(read_record(locate(model)), name=model)
    config = config.for_texts(has_documents=documents is not None or has_documents(texts), suggested=suggested)
    data = training_set(texts, config, documents)
    if blank := data.counts["blank"]:
        progress.warn(f"{blank:,} {'pairs' if data.is_paired else 'texts'} with only whitespace were left out")
    device = run_device(config.device)
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
    resolved = config.resolved(
        width=embedder.encoder.dim,
        weight_rms=weight_rms(embedder.encoder),
        suggested=suggested,
        model_type=str(embedder.encoder.model.config.model_type),
        longest=embedder.max_tokens,
    )
    refuse_unfit(resolved, embedder, data)
    if documents is not None and resolved.is_best_for_words and not resolved.join:
        progress.warn("the documents are not used: for words they only train the token vectors that the encoder is joined with")
    masked_lm = prediction_model(model, resolved)
    progress.note(embedder.encoder.layout_reason)
    budget = None if resolved.budget_s is None else Budget(resolved.budget_s, began_s)
    return _MirrorRun(str(model), embedder, resolved, data, place, progress, budget, suggested, masked_lm).run()


class _MirrorRun:
    """One run on prepared texts: measures, trains every seed, and saves the best."""

    def __init__(
        self,
        model: str,
        embedder: Embedder,
        config: ResolvedMirrorConfig,
        data: TrainingSet,
        output: RunOutput,
        progress: Progress,
        budget: Budget | None,
        suggested: dict[str, float | int],
        masked_lm: Any,
    ) -> None:
        self.masked_lm = masked_lm
        self.model, self.embedder, self.config, self.data = model, embedder, config, data
        self.output, self.progress, self.budget, self.suggested = output, progress, budget, suggested

    def run(self) -> Mirrored:
        config, data, embedder, progress = self.config, self.data, self.embedder, self.progress
        self.fingerprint = embedder.fingerprint()[:12] if self.output.folder is not None else ""  # of the untouched model
        self.untouched_pooling = embedder.pooling
        set_limits(embedder.encoder, config)
        self.dtype = distributed.choose_dtype(config.dtype, choose=embedder.encoder.choose_dtype, begun_in=self.output.dtype_begun_in)
        self.trainer = trainer_for(embedder, data, config, dtype=self.dtype, masked_lm=self.masked_lm)
        views, pairs = self.trainer.views, self.trainer.views.pairs
        if self.budget is not None:
            self.budget.refuse_over()
        began_s = time.monotonic()
        before = held_out_report(embedder, data, config, pooling=self.untouched_pooling, dtype=self.dtype)
        self.report_s = time.monotonic() - began_s if before is not None else 0.0
        if config.refuse_worse and before is None:
            raise UserError(
                f"refuse_worse needs held-out texts, but {len(data.held_left)} are too few to measure on: give more texts, or leave it out"
            )
        self.sizes_before = held_out_sizes(embedder, data, config, pooling=self.untouched_pooling, dtype=self.dtype)
        if config.prompt is not None:
            embedder.set_default_prompt(config.prompt, include_prompt=config.pooling != "mean")
        self.vectors = set_up(embedder, data, config, progress=progress)
        self.trainer.anchors = self.vectors if config.anchor else None
        encoder = embedder.encoder
        set_dropout(encoder.model, hidden=config.dropout, attention=config.attention_dropout)
        self._warn(pairs, has_figures=before is not None)
        if config.trains:
            with unchanged(encoder):
                check_views(encoder, views, config, progress=progress)
        runs, best = train_seeds(
            self._train_one if config.trains else self._untrained,
            encoder,
            config,
            score=score,
            describe=lambda run: _figures_in_words(run.after),
            progress=progress,
            on_best=self._keep_best,
        )
        embedder.correction, embedder.encoder = self.best_parts
        if encoder.pooling != saved_pooling(encoder.pooling):
            encoder.pooling = saved_pooling(encoder.pooling)
            tell = progress.note if config.recipe == "paper" else progress.warn
            tell(f"trained with {config.pooling}, which saved encoders do not support: the encoder and its figures use mean pooling")
        result = self._result(pairs, before, runs, best)
        if self.output.folder is not None and distributed.rank() == 0:
            self._save(result, self.output.folder)
        distributed.wait_for_all()
        if result.worse:
            progress.warn("THE NEW ENCODER LOOKS WORSE THAN THE UNTOUCHED MODEL: " + "; ".join(result.worse))
        overlap, after = (report.to_dict() if report else None for report in (result.lexical, result.after))
        if sentence := below_lexical(overlap, after):
            progress.warn(sentence)
        return result

    def _warn(self, pairs: TokenisedPairs, *, has_figures: bool) -> None:
        """Warn about texts that are cut, alike, or too few."""
        config, data = self.config, self.data
        if not has_figures:
            tell = self.progress.warn if config.held_out else self.progress.note
            tell(f"{len(data.held_left)} held-out texts are too few to measure on, so there are no figures of before and after")
        if pairs.truncated:
            self.progress.warn(
                f"{pairs.truncated:,} of {pairs.texts:,} texts are longer than {config.max_tokens} tokens and were cut: raise --max-tokens to keep them whole"
            )
        if pairs.alike:
            self.progress.warn(
                f"{pairs.alike:,} of {pairs.texts:,} texts have the same first {config.max_tokens} tokens as others, so they are not used as each other's "
                "negatives; raise --max-tokens if they differ further on"
            )
        if config.trains and self.budget is None and (steps := plan_of(config, len(data.left)).steps) < FEWEST_STEPS:
            self.progress.warn(
                f"{len(data.left):,} texts give only {steps} steps of {config.batch_texts}, too few to learn much: give more texts, or a smaller --batch-texts"
            )

    def _keep_best(self) -> None:
        """Keep the correction and the joined encoder of the best seed."""
        self.best_parts = self.embedder.correction, self.embedder.encoder

    def _train_one(self, seed: int) -> Run:
        config, trainer = self.config, self.trainer
        self.embedder.correction, self.embedder.encoder = None, trainer.encoder  # left by the previous seed
        trainer.start(seed=seed)
        if self.budget is None:
            plan = plan_of(config, len(self.data.left))
        else:
            reserve_s = self.report_s * cost_in_reports(config, trainer.encoder.dim) + saving_estimate_s(trainer.encoder)
            plan = plan_for_budget(trainer, self.budget, reserve_s=reserve_s, seed=seed, progress=self.progress)
        tell_negatives(self.progress, batch=plan.batch_texts, what="texts")
        facts = {"batch_texts": plan.batch_texts, "steps": plan.steps, "texts": self.data.digest()}
        identity = seed_identity(config, seed, model=self.model, fingerprint=self.fingerprint, dtype=self.dtype, **facts)
        held, length = self.data.held_left, {"steps": plan.steps, "batch_texts": plan.batch_texts}
        curve = curve_for(self.embedder, held, config, weights=trainer.weights, **length)
        defaults = {name: False if name == "keep_best" else getattr(MirrorConfig(), name) for name in _ADDED}
        trained = trainer.train(
            plan,
            seed=seed,
            progress=self.progress,
            name="mirror" if config.seeds == 1 else f"mirror, seed {seed}",
            # runs with a budget cannot be resumed, and writing checkpoints takes time
            saving=self.output.saving(
                seed - config.seed,
                identity=identity,
                every_s=config.checkpoint_every_s if self.budget is None else None,
                defaults=defaults,
            ),
            curve=curve,
        )
        record = None if curve is None else curve.record
        after, share = self._finished()
        return Run(seed, trained.steps, trained.seconds, trained.losses, plan.batch_texts, after, record, share)

    def _untrained(self, seed: int) -> Run:
        """The run of a recipe without training steps."""
        after, share = self._finished()
        return Run(seed, 0, 0.0, [], 0, after, None, share)

    def _finished(self) -> tuple[LabelFreeReport | None, StaticShare | None]:
        """Fit whitening or join, and measure the encoder as it will be saved."""
        share = finish(self.embedder, self.data, self.config, vectors=self.vectors, dtype=self.dtype)
        if share is not None and share.chosen_by is not None:
            tried = ", ".join(f"{each:g}: {mrr:.3f}" for each, mrr in sorted(share.mrr.items()))
            self.progress.note(f"share of the token vectors: {share.share:g} (MRR of held-out {share.chosen_by} {tried})")
        report = held_out_report(self.embedder, self.data, self.config, pooling=self.trainer.encoder.pooling, dtype=self.dtype)
        return report, share

    def _result(self, pairs: TokenisedPairs, before: LabelFreeReport | None, runs: list[Run], best: int) -> Mirrored:
        config, data, run = self.config, self.data, runs[best]
        worse = run.after.is_worse_than(before) if before is not None and run.after is not None else []
        at_hand = len(data.left if config.trains else data.own_texts)
        used = min(at_hand, run.steps * run.batch_texts) if config.trains else at_hand
        counts = {**data.counts, "truncated": pairs.truncated, "not_read": at_hand - used, "sharing": pairs.sharing()}
        self.embedder.name = str(self.output.folder or f"{self.embedder.name} mirrored")
        lexical = lexical_report(data, config)
        if config.refuse_worse and distributed.from_first(lambda: worse):
            self._refuse_worse(worse)
        sizes_after = held_out_sizes(self.embedder, data, config, pooling=self.embedder.encoder.pooling, dtype=self.dtype)
        sizes = tuple(after.with_before(was) for was, after in zip(self.sizes_before, sizes_after, strict=True))
        return Mirrored(self.embedder, config, before, runs, best, used, counts, worse, self.output.folder, lexical, self.model, sizes)

    def _refuse_worse(self, worse: list[str]) -> NoReturn:
        """Remove the checkpoints of the run and refuse to save.

        Raises:
            UserError: Always.
        """
        if distributed.rank() == 0:
            self.output.remove_checkpoints()
        distributed.wait_for_all()
        raise UserError(
            f"the new encoder is worse than the untouched model ({'; '.join(worse)}), so nothing was saved: give more texts, a lower"
            " --learning-rate or another --recipe, or leave --refuse-worse out"
        )

    def _save(self, result: Mirrored, folder: Path) -> None:
        record = seeds_record(
            result.config,
            result.runs,
            result.best,
            model=self.model,
            dtype=self.dtype,
            layout=self.embedder.layout,
            counts=result.counts,
        )
        record["config"]["batch_texts"] = result.runs[result.best].batch_texts
        record |= {
            "kind": "encoder",
            "method": method_of(result.config, is_paired=self.data.is_paired),
            "pairs": self.data.is_paired,
            "texts": result.texts,
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
        if (share := result.runs[result.best].static_share) is not None:
            record["static_share"] = {
                "share": share.share,
                "chosen_by": share.chosen_by,
                "mrr": {f"{each:g}": mrr for each, mrr in sorted(share.mrr.items())},
            }
        if result.sizes:
            record["sizes"] = [asdict(size) for size in result.sizes]
        if self.suggested:
            record["mirror"] = self.suggested  # suggestions for the model also apply to encoders made from it
        with self.output.writing() as partial:
            # trained by cosines, whatever the base model's folder asks for
            self.embedder.save(partial, record=record, card=model_card(folder.name, record), similarity="cosine")
        self.output.remove_checkpoints()


def score(run: Run) -> float:
    """Figure that chooses among seeds: label-free, or the loss of the last batch without held-out texts."""
    return label_free_score(run.after) if run.after is not None else -run.losses[-1]


def _figures_in_words(report: LabelFreeReport | None) -> str:
    if report is None:
        return "no held-out texts to measure on"
    return f"self-retrieval MRR {report.self_retrieval_mrr:.3f}, alignment {report.alignment:.3f}, uniformity {report.uniformity:.3f}"

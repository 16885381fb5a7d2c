"""Train a bi-, poly- or cross-encoder on pairs of contexts and correct answers, starting from any encoder.

Humeau et al. 2020 (Poly-encoders), section 4. The two towers start from the same weights and are trained separately. A step of a bi- or
poly-encoder ranks the batch's answers for every context; a step of a cross-encoder ranks a separate list for each context.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tain.encoders.dropout import set_dropout
from tain.foundation.errors import UserError
from tain.foundation.locks import writes_output
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder, max_length
from tain.models.rankers import Ranker, refuse_correction
from tain.models.saved import read_layout
from tain.recipes.rank.best_weights import BestWeights
from tain.recipes.rank.config import RankConfig, ResolvedRankConfig
from tain.recipes.rank.cross import CrossTrainer
from tain.recipes.rank.data import RankingData, gather_data
from tain.recipes.rank.dual import DualTrainer
from tain.recipes.rank.model_card import ranker_card
from tain.recipes.rank.negatives import prepare_negatives
from tain.recipes.rank.pairs import tokenise_pairs
from tain.recipes.rank.trainer import RankTrainer
from tain.recipes.rank.validation import in_words, validation_of
from tain.recipes.shared.run import RunOutput, join_processes, run_device, seed_identity, seeds_record, tell_negatives, train_seeds
from tain.recipes.shared.settings import resolve_config, suggested_settings
from tain.text.collections import each_item
from tain.text.lines import is_blank
from tain.text.records import RankingExample
from tain.training import distributed

# type of ranker -> how it is built and trained; what its settings imply is in ``config.KINDS``
TRAINERS: dict[str, type[RankTrainer[Any]]] = {"bi": DualTrainer, "poly": DualTrainer, "cross": CrossTrainer}


@dataclass(frozen=True)
class RankRun:
    """Training result of one seed.

    Attributes:
        seed: Its seed.
        steps: Steps done.
        seconds: Time in the training loop.
        losses: Loss of each step.
        validations: Step and MRR x 100 of each validation.
        after: Figures on the held-out contexts, x 100; None without them.
    """

    seed: int
    steps: int
    seconds: float
    losses: list[float]
    validations: list[tuple[int, float]]
    after: dict[str, float] | None


@dataclass(frozen=True)
class Ranked:
    """A trained ranker with its runs and figures.

    Attributes:
        ranker: The trained ranker.
        config: The resolved settings.
        before: Figures of the untrained ranker, with initial codes or score, x 100; None without held-out contexts.
        measured_on: Description of the data that the figures are measured on.
        runs: Every seed's run.
        best: Index in ``runs`` of the run that ``ranker`` comes from.
        counts: Numbers of contexts, pairs, candidates, held-out contexts and cut texts.
        worse: Reasons, in words, why the ranker looks worse than the untrained one; empty is good.
        folder: Where it was saved, if it was.
    """

    ranker: Ranker
    config: ResolvedRankConfig
    before: dict[str, float] | None
    measured_on: str
    runs: list[RankRun]
    best: int
    counts: dict[str, int]
    worse: list[str]
    folder: Path | None = None

    @property
    def after(self) -> dict[str, float] | None:
        return self.runs[self.best].after

    def _repr_html_(self) -> str:
        """The figures before and after, in a notebook."""
        from tain.recipes.rank.model_card import html_summary

        return html_summary(self)


@writes_output
def rank(
    model: str | Path,
    pairs: Iterable[RankingExample] | Iterable[tuple[str, str]],
    output: str | Path | None = None,
    *,
    validation: Iterable[RankingExample] | Iterable[tuple[str, str]] = (),
    config: RankConfig | None = None,
    overwrite: bool = False,
    progress: Progress | bool | None = None,
    **settings: Any,
) -> Ranked:
    """Train a ranker on contexts and their correct answers.

    Args:
        model: A folder, a hub name, or ``tain-mini``: the encoder that all towers start from.
        pairs: Contexts with correct answers; see ``text.ranking_pairs`` for reading them from a table.
        output: Folder to save the ranker in; None keeps it in memory only.
        validation: Held-out examples; default: some of ``pairs``.
        config: All settings at once; or give settings by keyword.
        overwrite: Replace ``output`` if it exists, and, without ``resume``, the checkpoint of an interrupted run.
        progress: ``False`` shows nothing; ``None`` (default) shows a bar on a terminal or in a notebook; or a ``Progress``.
        **settings: Fields of ``RankConfig``.

    Raises:
        UserError: Settings, pairs or model are invalid.

    Examples:
        >>> import tain
        >>> pairs = [(f"what is number {number}?", f"it is the number {number}") for number in range(12)]
        >>> result = tain.train_ranker("tain-mini", pairs, "ranker", type="bi", batch_contexts=4, epochs=1, held_out=0)
        >>> tain.load("ranker").score(["what is number 3?"], ["it is the number 3", "a red door"]).shape
        (1, 2)
    """
    progress = Progress.resolve(progress)
    config = resolve_config(RankConfig, "rank", config, settings)
    place = RunOutput.of_seeds(output, config, overwrite=overwrite, inputs=[model, config.mine_with, config.teacher])
    progress = join_processes(config.device, progress)
    data = gather_data(joined_examples(pairs), config, validation=joined_examples(validation))
    suggested = suggested_settings(read_layout(model).record, name=model)
    config = config.for_pairs(pairs=len(data.pairs), has_held_out=bool(data.held), suggested=suggested)
    if len(data.pairs) < config.batch_contexts:
        raise UserError(
            f"there are {len(data.pairs):,} pairs to train on, fewer than a batch of {config.batch_contexts}: "
            f"give more pairs, or --batch-contexts {max(2, len(data.pairs) // 2)}"
        )
    if config.batch_contexts < distributed.world_size():
        raise UserError(
            f"batch_contexts is {config.batch_contexts}, fewer than the {distributed.world_size()} processes that share a batch: "
            f"give {distributed.world_size()} or more, or start fewer processes"
        )
    device = run_device(config.device)
    embedder = Embedder.load(model, device=str(device), dtype="float32", pooling=config.pooling, trust_remote_code=config.trust_remote_code)
    embedder.refuse_unusual("training a ranker")
    refuse_correction(embedder)
    # a shorter limit of the folder is only a setting for its original use
    embedder.max_tokens = longest = max(embedder.max_tokens, max_length(embedder.encoder.model, embedder.tokenizer))
    config.refuse_long(longest)
    resolved = config.resolved(longest=longest, pooling=embedder.pooling)
    trained_on = set(data.contexts)
    if common := sum(example.context in trained_on for example in data.held):
        progress.warn(
            f"{common:,} of {len(data.held):,} held-out contexts are also trained on, which makes the figures too high: drop them from one of the two"
        )
    progress.note(embedder.encoder.layout_reason)
    return _train_seeds(str(model), embedder, resolved, data, place, progress)


def joined_examples(pairs: Iterable[RankingExample] | Iterable[tuple[str, str]]) -> list[RankingExample]:
    """Join plain pairs of the same context into examples with several correct answers."""
    joined: dict[str, RankingExample] = {}
    for index, pair in enumerate(each_item(pairs, what="pair")):
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(side, str) for side in pair)
        if not is_pair and not isinstance(pair, RankingExample):
            raise UserError(f"pair number {index + 1} is {pair!r:.60}: give a context and its answer, or a RankingExample")
        one = pair if isinstance(pair, RankingExample) else RankingExample(pair[0], (pair[1],))
        if is_blank(one.context) or not one.answers or any(is_blank(answer) for answer in one.answers):
            raise UserError(f"the pair of context {one.context[:40]!r} has an empty side: fill it in or drop the pair")
        was = joined.get(one.context, RankingExample(one.context, ()))
        answers = tuple(dict.fromkeys(was.answers + one.answers))
        joined[one.context] = RankingExample(one.context, answers, tuple(dict.fromkeys(was.negatives + one.negatives)))
    return list(joined.values())


def _train_seeds(
    model: str, embedder: Embedder, config: ResolvedRankConfig, data: RankingData, output: RunOutput, progress: Progress
) -> Ranked:
    """Train every seed on prepared pairs, and save the best."""
    dtype = distributed.choose_dtype(config.dtype, choose=embedder.encoder.choose_dtype, begun_in=output.dtype_begun_in)
    fingerprint = embedder.fingerprint()[:12] if output.folder is not None else ""  # of the untouched model
    kind = TRAINERS[config.type]
    ranker = kind.build(embedder, config)
    pairs = tokenise_pairs(data, ranker, progress=progress)
    validation = validation_of(pairs.data, config, progress=progress)
    negatives = prepare_negatives(pairs.data, config, device=ranker.device, progress=progress)
    trainer = kind(ranker, pairs, negatives, config, dtype=dtype)
    for tower in ranker.towers:
        set_dropout(tower.encoder.model, hidden=config.dropout, attention=config.attention_dropout)
    trainer.freeze(folder=None if output.folder is None else output.folder.parent, progress=progress)
    best_folders = [] if output.folder is None else [_best_folder(output.folder, config.seed + number) for number in range(config.seeds)]

    def measured() -> dict[str, float] | None:
        return None if validation is None else validation.measure(ranker)

    def train_one(seed: int) -> RankRun:
        trainer.start_head(seed)
        if config.type != "cross":  # a cross-encoder has its negatives in its own list
            tell_negatives(progress, batch=config.batch_contexts, what="contexts and their answers")
        facts = {"pairs": len(pairs.data.pairs), "content of the pairs": pairs.data.digest, "steps": trainer.steps}
        identity = seed_identity(config, seed, model=model, fingerprint=fingerprint, dtype=dtype, **facts)
        number = seed - config.seed
        saving = output.saving(number, identity=identity, every_s=config.checkpoint_every_s)
        if saving is not None and not saving.resume and distributed.rank() == 0:
            for left in (saving.folder, best_folders[number]):  # left by an earlier run that is not resumed
                shutil.rmtree(left, ignore_errors=True)
        name = f"rank, {config.type}" if config.seeds == 1 else f"rank, {config.type}, seed {seed}"
        best_weights = BestWeights(best_folders[number] if saving is not None else None, identity)
        trained, validations = trainer.train(
            seed, progress=progress, name=name, validation=validation, best_weights=best_weights, saving=saving
        )
        return RankRun(seed, trained.steps, trained.seconds, trained.losses, validations, measured())

    trainer.start_head(config.seed)
    before = measured()
    runs, best = train_seeds(
        train_one,
        ranker.module,
        config,
        score=lambda run: run.after["MRR"] if run.after is not None else -run.losses[-1],
        describe=lambda run: in_words(run.after),
        progress=progress,
    )
    ranker.module.eval()
    ranker.weights_changed()
    counts = {
        "contexts": len(pairs.data.contexts),
        "pairs": len(pairs.data.pairs),
        "candidates": len(pairs.data.candidates),
        "held_out": len(pairs.data.held),
        "truncated": pairs.truncated,
    }
    ranker.name = str(output.folder or f"{model} ranking")
    measured_on = "nothing held out" if validation is None else str(validation)
    worse = _worse(before, runs[best].after)
    result = Ranked(ranker, config, before, measured_on, runs, best, counts, worse, output.folder)
    if output.folder is not None and distributed.rank() == 0:
        with output.writing() as partial:
            record = _record(result, model=model, dtype=dtype)
            ranker.save(partial, record=record, card=ranker_card(output.folder.name, ranker.type, record))
        output.remove_checkpoints()
        for left in best_folders:
            shutil.rmtree(left, ignore_errors=True)
    distributed.wait_for_all()
    if worse:
        progress.warn(
            f"THE RANKER LOOKS WORSE THAN THE UNTRAINED ONE: {'; '.join(worse)} on {measured_on}; give more pairs, or a lower --learning-rate"
        )
    return result


def _record(result: Ranked, *, model: str, dtype: torch.dtype) -> dict[str, Any]:
    """Content of ``tain.json``."""
    layout = result.ranker.towers[0].layout
    record = seeds_record(result.config, result.runs, result.best, model=model, dtype=dtype, layout=layout, counts=result.counts)
    return record | {
        "method": "Poly-encoders (bi-, poly- and cross-encoders)",
        "validations": result.runs[result.best].validations,
        "measured_on": result.measured_on,
        "chosen_on_the_same": result.after is not None,  # held-out contexts also decided learning rates, weights and seed
        "worse": result.worse,
        "figures": {"before": result.before, "after": result.after, "all_seeds": [each.after for each in result.runs]},
        "fingerprint": result.ranker.fingerprint,
    }


def _best_folder(output: Path, seed: int) -> Path:
    return output.parent / f".{output.name}.best-{seed}"


def _worse(before: dict[str, float] | None, after: dict[str, float] | None) -> list[str]:
    if before is None or after is None or after["MRR"] >= before["MRR"]:
        return []
    return [f"MRR {after['MRR']:.1f}, untrained {before['MRR']:.1f}"]

"""Train a bi-, poly- or cross-encoder on pairs of contexts and correct answers, starting from any encoder.

Humeau et al. 2020 (Poly-encoders), section 4. The two towers start from the same weights and are trained separately. A step of a bi- or
poly-encoder ranks the batch's answers for every context; a step of a cross-encoder ranks a separate list for each context.
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tain.batches.order import ShuffledOrder, step_seed
from tain.batches.packing import batches_by_tokens, pack
from tain.batches.tokenizing import tokenise
from tain.encoders.dropout import set_dropout
from tain.encoders.heads import PAPER_SCALE, poly_scores
from tain.foundation.errors import UserError
from tain.foundation.files import refuse_existing, whole_folder
from tain.foundation.locks import writes_output
from tain.foundation.machine import choose_device, keep_freed_memory, set_dtype
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder, max_length
from tain.models.rankers import CANDIDATE_TOKENS, CONTEXT_TOKENS, CrossRanker, DualRanker, Ranker, refuse_correction
from tain.models.saved import read_layout
from tain.models.unknown_tokens import check_known
from tain.objectives.ranking import candidate_cross_entropy, listwise_distillation
from tain.ranking.evaluation import CandidateLists, given_lists, list_figures, list_scores, sampled_lists
from tain.recipes.rank.config import RankConfig, plateau_factor
from tain.recipes.rank.data import RankingData, gather_data, merge_same, mine_negatives
from tain.recipes.rank.frozen import FrozenTower
from tain.recipes.rank.model_card import ranker_card
from tain.recipes.shared.settings import resolve_config, suggested_settings
from tain.text.cleaning import lists_others
from tain.text.collections import each_item
from tain.text.records import RankingExample
from tain.training import distributed
from tain.training.async_loss import backward
from tain.training.checkpoint import (
    Checkpoint,
    checkpoint_folder,
    checkpoint_folders,
    drop_leftovers,
    dtype_of,
    load_checkpoint,
    refuse_nothing_to_resume,
    refuse_to_lose,
    save_checkpoint,
)
from tain.training.gradcache import cached_gradients
from tain.training.loop import Saving, train, warmup_then_linear
from tain.training.optimizer import MasterWeights, Optimizer, two_rates

_START_SCORE = 20.0  # score of a vector with itself under a learned scale: cosines times twenty
_SAMPLE = 64  # texts to fit the scale and the codes to
_SIMILARITIES = 2**24  # similarities of context vectors and candidates in memory at once: 64 MB, about four times that with gradients


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
    config: RankConfig
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

    Example:
        >>> import tain
        >>> pairs = [(f"what is number {number}?", f"it is the number {number}") for number in range(12)]
        >>> result = tain.train_ranker("tain-mini", pairs, "ranker", type="bi", batch_contexts=4, epochs=1, held_out=0)
        >>> tain.load("ranker").score(["what is number 3?"], ["it is the number 3", "a red door"]).shape
        (1, 2)
    """
    progress = Progress.resolve(progress)
    config = resolve_config(RankConfig, "rank", config, settings)
    if output is not None:
        refuse_existing(Path(output), overwrite=overwrite)
        if not config.resume:
            refuse_to_lose(checkpoint_folders(Path(output), seed=config.seed, seeds=config.seeds), overwrite=overwrite)
    elif config.resume:
        raise UserError("resume continues from the checkpoint next to the output folder, but no output is given: give output")
    distributed.start_processes(config.device)
    if distributed.rank() > 0:
        progress = Progress.mute()  # only one process reports
    data = gather_data(_examples(pairs), config, validation=_examples(validation))
    config = config.resolved(
        pairs=len(data.pairs), has_held_out=bool(data.held), suggested=suggested_settings(read_layout(model).record, name=model)
    )
    assert config.batch_contexts is not None
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
    device = choose_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    embedder = Embedder.load(model, device=str(device), dtype="float32", pooling=config.pooling, trust_remote_code=config.trust_remote_code)
    embedder.refuse_unusual("training a ranker")
    refuse_correction(embedder)
    config = _fit_to_model(config, embedder)
    trained_on = set(data.contexts)
    if common := sum(example.context in trained_on for example in data.held):
        progress.warn(
            f"{common:,} of {len(data.held):,} held-out contexts are also trained on, which makes the figures too high: drop them from one of the two"
        )
    progress.note(embedder.encoder.layout_reason)
    return RankTrainer(model, embedder, config, data, progress, None if output is None else Path(output), overwrite).run()


def _examples(pairs: Iterable[RankingExample] | Iterable[tuple[str, str]]) -> list[RankingExample]:
    """Join plain pairs of the same context into examples with several correct answers."""
    joined: dict[str, RankingExample] = {}
    for index, pair in enumerate(each_item(pairs, what="pair")):
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(side, str) for side in pair)
        if not is_pair and not isinstance(pair, RankingExample):
            raise UserError(f"pair number {index + 1} is {pair!r:.60}: give a context and its answer, or a RankingExample")
        one = pair if isinstance(pair, RankingExample) else RankingExample(pair[0], (pair[1],))
        if not one.context.strip() or not one.answers or not all(answer.strip() for answer in one.answers):
            raise UserError(f"the pair of context {one.context[:40]!r} has an empty side: fill it in or drop the pair")
        was = joined.get(one.context, RankingExample(one.context, ()))
        answers = tuple(dict.fromkeys(was.answers + one.answers))
        joined[one.context] = RankingExample(one.context, answers, tuple(dict.fromkeys(was.negatives + one.negatives)))
    return list(joined.values())


def _fit_to_model(config: RankConfig, embedder: Embedder) -> RankConfig:
    """Fill in the length limits, and refuse limits beyond the model's."""
    longest = max_length(embedder.encoder.model, embedder.tokenizer)  # the folder's own limit is only a setting for its original use
    embedder.max_tokens = longest
    is_cross = config.type == "cross"
    candidate = config.candidate_tokens or min(CANDIDATE_TOKENS, longest // 2 if is_cross else longest)
    # in a pair, the candidate's first special token is dropped or replaced by a separator
    room = longest - candidate if is_cross else longest
    if candidate > longest - (3 if is_cross else 0):
        beside = " with room for a context" if is_cross else ""
        raise UserError(f"candidate_tokens is {candidate}, but the model reads {longest} at most{beside}: give fewer")
    context = config.context_tokens or min(CONTEXT_TOKENS, room)
    if context > room:
        together = " together, as a cross-encoder reads them" if is_cross else ""
        raise UserError(
            f"context_tokens is {context} and candidate_tokens {candidate}, but the model reads {longest} at most{together}: give fewer"
        )
    return replace(config, context_tokens=context, candidate_tokens=candidate, pooling=None if is_cross else embedder.pooling)


@dataclass(frozen=True)
class _Part:
    """A micro-batch of a dual encoder: tokenised texts of both sides, and the indices of their vectors."""

    contexts: list[list[int]]
    candidates: list[list[int]]
    rows: list[int]


class RankTrainer:
    """Trains all seeds on prepared pairs, chooses the best and saves it."""

    def __init__(
        self,
        model: str | Path,
        embedder: Embedder,
        config: RankConfig,
        data: RankingData,
        progress: Progress,
        output: Path | None,
        overwrite: bool,
    ) -> None:
        self.model, self.config, self.data = model, config, data
        self.progress, self.output, self.overwrite = progress, output, overwrite
        self.dtype = distributed.choose_dtype(config.dtype, choose=embedder.encoder.choose_dtype, begun_in=self._begun_in)
        self.weights_digest = embedder.fingerprint()[:12] if output is not None else ""  # of the untouched model
        self.ranker = self._build(embedder)
        self.device = self.ranker.device
        self.context_ids, self.candidate_ids, self.truncated = self._tokenised()
        self._merge_same()
        self.lists = self._validation_lists()
        self.negatives: np.ndarray | None = None  # (pairs, negatives), if lists are fixed
        self.teacher_scores: Tensor | None = None  # (pairs, 1 + negatives), the correct one first
        self.frozen: FrozenTower | None = None
        self.weights = MasterWeights(self.ranker.module, dtype=torch.float32)  # until a run makes its own

    # ---- getting ready

    def _build(self, embedder: Embedder) -> Ranker:
        config = self.config
        assert config.context_tokens is not None and config.candidate_tokens is not None
        limits = {"context_tokens": config.context_tokens, "candidate_tokens": config.candidate_tokens}
        generator = torch.Generator().manual_seed(config.seed)
        if config.type == "cross":
            return CrossRanker.start(embedder, **limits, generator=generator)
        return DualRanker.start(
            embedder,
            kind="pooled" if config.type == "bi" else config.code_kind,
            codes=config.codes or 1,
            scale=PAPER_SCALE,
            is_scale_learned=not config.paper_scaling,
            normalize=config.similarity == "cosine",
            is_shared=config.shared_towers,
            generator=generator,
            **limits,
        )

    def _tokenised(self) -> tuple[list[list[int]], list[list[int]], int]:
        assert isinstance(self.ranker, DualRanker | CrossRanker)
        sides = self.ranker.context, self.ranker.candidate
        texts = self.data.contexts, self.data.candidates
        both = [tokenise(side.tokenizer, given, max_tokens=side.max_tokens) for side, given in zip(sides, texts, strict=True)]
        for side, given in zip(sides, texts, strict=True):
            check_known(side, given, progress=self.progress, is_training=True)
        for what, tokens, side in zip(("contexts", "candidates"), both, sides, strict=True):
            if tokens.truncated:
                self.progress.warn(
                    f"{tokens.truncated:,} of {len(tokens):,} {what} are longer than {side.max_tokens} tokens and were cut: "
                    f"raise --{what[:-1]}-tokens to keep them whole"
                )
        return both[0].ids, both[1].ids, both[0].truncated + both[1].truncated

    def _merge_same(self) -> None:
        """Merge texts with equal tokens, so that they are not each other's negatives."""
        self.data, kept, alike = merge_same(self.data, self.context_ids, self.candidate_ids)
        self.candidate_ids = [self.candidate_ids[index] for index in kept]
        if alike:
            self.progress.warn(
                f"{alike:,} contexts and candidates have the same tokens as others, so they count as the same; raise --context-tokens or "
                "--candidate-tokens if they differ further on"
            )

    def _validation_lists(self) -> CandidateLists | None:
        if not self.data.held:
            return None
        listing = sum(lists_others(example) for example in self.data.held)
        if 2 * listing >= len(self.data.held):
            lists = given_lists(self.data.held)
            left_out = len(self.data.held) - len(lists)
            if left_out:
                self.progress.note(
                    f"{left_out:,} of {len(self.data.held):,} held-out contexts list no negatives and are not used for measuring"
                )
            return lists
        rng = np.random.default_rng([self.config.seed, 2])
        max_right = max(len(example.answers) for example in self.data.held)
        possible = len(self.data.texts) - max_right + 1
        if possible < 2:
            raise UserError(
                f"the pairs and held-out contexts have {len(self.data.texts):,} different candidates, and {max_right} are correct for one held-out "
                "context, which leaves no wrong candidate: give other held-out contexts, or --held-out 0"
            )
        return sampled_lists(self.data.held, size=max(2, min(self.config.validation_candidates, possible)), rng=rng, pool=self.data.texts)

    def _prepare_negatives(self) -> None:
        """Mine hard negatives, and score every pair's list with the teacher, once for all seeds."""
        config = self.config
        assert config.negatives is not None
        if config.mine_with is not None:
            found = distributed.from_first(self._mined)
            self.data = replace(self.data, hard=[tuple(near) for near in found])
        if config.teacher is None:
            return
        rng = np.random.default_rng([config.seed, 4])
        drawn = [self.data.draw_negatives(context, config.negatives, rng=rng) for context in self.data.pairs[:, 0].tolist()]
        self.negatives = np.array(drawn, dtype=np.int64)
        self.teacher_scores = torch.tensor(distributed.from_first(self._taught))

    def _helper(self, name: str) -> Ranker:
        """Load a ranker for mining or teaching."""
        return Ranker.load(name, device=str(self.device), dtype=self.config.dtype, trust_remote_code=self.config.trust_remote_code)

    def _mined(self) -> list[tuple[int, ...]]:
        assert self.config.mine_with is not None
        miner = self._helper(self.config.mine_with)
        if not isinstance(miner, DualRanker):
            raise UserError(f"mine_with is {self.config.mine_with!r}, a cross-encoder, which would take hours: give a bi- or poly-encoder")
        return mine_negatives(miner, self.data, count=self.config.mining_pool)

    def _taught(self) -> list[list[float]]:
        """The teacher's scores of each pair's correct answer and negatives."""
        assert self.config.teacher is not None and self.negatives is not None
        texts = self.data.candidates
        lists = [
            [texts[answer], *(texts[wrong] for wrong in row)] for (_, answer), row in zip(self.data.pairs, self.negatives, strict=True)
        ]
        contexts = [self.data.contexts[context] for context, _ in self.data.pairs]
        return [row.tolist() for row in self._helper(self.config.teacher).score_lists(contexts, lists, progress=self.progress)]

    def _start_head(self, seed: int) -> None:
        """Initialise new weights; a learned scale and codes are fitted to the untrained encoder's outputs."""
        generator = torch.Generator().manual_seed(seed)
        if isinstance(self.ranker, CrossRanker):
            with torch.no_grad():
                self.ranker.head.weight.copy_(0.02 * torch.randn(self.ranker.head.weight.shape, generator=generator))
            return
        assert isinstance(self.ranker, DualRanker)
        head = self.ranker.head
        self.ranker.module.eval()
        with torch.no_grad():
            if self.config.paper_scaling:
                if head.codes is not None:
                    head.codes.copy_(torch.rand(head.codes.shape, generator=generator))
                return
            head.log_scale.zero_()
            squares = self.ranker.candidate_vectors(self.candidate_ids[:_SAMPLE]).square().sum(1).mean()
            head.log_scale.copy_((_START_SCORE / squares).log() / 2)
            if head.codes is not None:
                tokens = self.ranker.context.encoder.tokens(pack(self.context_ids[:_SAMPLE]))
                head.draw_codes(token_length=float(tokens.float().square().sum(1).mean().sqrt()), generator=generator)

    # ---- the whole run

    def run(self) -> Ranked:
        config = self.config
        assert config.dropout is not None and config.attention_dropout is not None
        if self.output is not None and config.resume and not any(self._goes_on(config.seed + number) for number in range(config.seeds)):
            refuse_nothing_to_resume(self._checkpoint_folder(config.seed))
        self._prepare_negatives()
        for tower in self.ranker.towers:
            set_dropout(tower.encoder.model, hidden=config.dropout, attention=config.attention_dropout)
        self._freeze()
        untouched = {name: tensor.detach().clone() for name, tensor in self.ranker.module.state_dict().items()} if config.seeds > 1 else {}
        runs: list[RankRun] = []
        best, best_state, before = 0, {}, None
        for number in range(config.seeds):
            if number:
                self.ranker.module.load_state_dict(untouched)
            self._start_head(config.seed + number)
            if number == 0:
                before = self._measure()
            runs.append(self._train_one(config.seed + number))
            if config.seeds > 1:
                self.progress.note(f"seed {runs[-1].seed}: {_in_words(runs[-1].after)}")
                if number == 0 or _figure(runs[-1]) > _figure(runs[best]):
                    best, best_state = number, {name: tensor.detach().clone() for name, tensor in self.ranker.module.state_dict().items()}
        if config.seeds > 1:
            self.ranker.module.load_state_dict(best_state)
        self.ranker.module.eval()
        self.ranker.weights_changed()
        counts = {
            "contexts": len(self.data.contexts),
            "pairs": len(self.data.pairs),
            "candidates": len(self.data.candidates),
            "held_out": len(self.data.held),
            "truncated": self.truncated,
        }
        self.ranker.name = str(self.output or f"{self.model} ranking")
        measured_on = f"{len(self.lists):,} held-out lists, {self.lists.kind}" if self.lists else "nothing held out"
        worse = _worse(before, runs[best].after)
        result = Ranked(self.ranker, config, before, measured_on, runs, best, counts, worse, self.output)
        if self.output is not None and distributed.rank() == 0:
            self._save(result)
        distributed.wait_for_all()
        if worse:
            self.progress.warn(
                f"THE RANKER LOOKS WORSE THAN THE UNTRAINED ONE: {'; '.join(worse)} on {measured_on}; give more pairs, or a lower --learning-rate"
            )
        return result

    def _freeze(self) -> None:
        if self.config.freeze == "embeddings":
            for tower in self.ranker.towers:
                for parameter in tower.encoder.model.get_input_embeddings().parameters():
                    parameter.requires_grad_(False)
        if self.config.freeze == "encoder":
            assert isinstance(self.ranker, DualRanker)
            for tower in self.ranker.towers:
                tower.encoder.requires_grad_(False)
            folder = None if self.output is None else self.output.parent
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            self.frozen = FrozenTower(self.ranker, self.context_ids, self.candidate_ids, folder=folder, progress=self.progress)

    def _measure(self) -> dict[str, float] | None:
        """The figures on held-out contexts, equal in every process, because they decide learning rates and the kept weights."""
        return None if self.lists is None else distributed.from_first(self._measured)

    def _measured(self) -> dict[str, float]:
        assert self.lists is not None
        found = list_figures(list_scores(self.ranker, self.lists), self.lists)
        return {name: float(100 * values.mean()) for name, values in found.items()}

    def _train_one(self, seed: int) -> RankRun:
        config, module = self.config, self.ranker.module
        assert config.batch_contexts is not None and config.warmup_steps is not None and config.learning_rate is not None
        # restore exact values of frozen weights and of the head, which stays in float32: a cast through bfloat16 rounds them
        exact = {
            name: parameter.detach().clone()
            for name, parameter in module.named_parameters()
            if name.startswith("head.") or not parameter.requires_grad
        }
        self.weights = weights = MasterWeights(module, dtype=self.dtype)
        set_dtype(module["head"], torch.float32)  # type: ignore[index]
        _put(module, {name: tensor for name, tensor in exact.items() if name.startswith("head.")})
        optimizer = two_rates(
            weights,
            method=config.optimizer,
            learning_rate=config.learning_rate,
            head_learning_rate=config.head_learning_rate,
            head_prefix="head.",
            weight_decay=config.weight_decay,
        )
        module.train()
        distributed.refuse_idle_processes(config.batch_contexts, what="contexts")
        order = ShuffledOrder(len(self.data.pairs), batch_texts=config.batch_contexts, seed=seed)
        steps = order.steps_per_epoch * config.epochs
        memory: dict[str, Any] = {"misses": 0, "best": None, "validations": []}
        saving = self._saving(seed, steps)
        best_weights = BestWeights(
            None if self.output is None else self._best_folder(seed), optimizer, self._identity(seed) | {"steps": steps}
        )
        if self.output is not None and distributed.rank() == 0 and not self._goes_on(seed):
            for left in (self._checkpoint_folder(seed), self._best_folder(seed)):  # left by an earlier run that is not resumed
                shutil.rmtree(left, ignore_errors=True)
        trained = train(
            lambda step: self.gradient_step(order.batch(step), step=step, seed=seed),
            optimizer,
            steps=steps,
            progress=self.progress,
            name=f"rank, {config.type}" if config.seeds == 1 else f"rank, {config.type}, seed {seed}",
            rate_factor=self._rate_factor(steps, memory),
            saving=saving,
            after_step=self._validating(order.steps_per_epoch, steps, memory, best_weights),
            memory=memory,
        )
        if memory["best"] is not None:
            best_weights.load(memory["best"])
        weights.restore(module)
        _put(module, {name: tensor for name, tensor in exact.items() if name not in weights.names})
        module.eval()
        validations = [(int(step), float(figure)) for step, figure in memory["validations"]]
        return RankRun(seed, trained.steps, trained.seconds, trained.losses, validations, self._measure())

    def _rate_factor(self, steps: int, memory: dict[str, Any]) -> Callable[[int], float]:
        warmup = self.config.warmup_steps or 0
        if self.config.schedule == "linear":
            return warmup_then_linear(steps, warmup_steps=warmup)
        return lambda step: min(1.0, (step + 1) / max(1, warmup)) * plateau_factor(memory["misses"])

    def _validating(self, epoch_steps: int, steps: int, memory: dict[str, Any], best_weights: "BestWeights") -> Callable[[int], None]:
        every = max(1, epoch_steps // self.config.validations_per_epoch)

        def after_step(done: int) -> None:
            if self.lists is None or not (done % every == 0 or done == steps):
                return
            figures = self._measure()
            assert figures is not None
            memory["validations"].append([done, figures["MRR"]])
            if memory["best"] is None or figures["MRR"] > memory["best"]:
                memory["best"] = figures["MRR"]
                best_weights.keep(memory["best"])
            else:
                memory["misses"] += 1
            self.progress.note(f"after step {done}: {_in_words(figures)}")

        return after_step

    # ---- one step

    def gradient_step(self, indices: np.ndarray, *, step: int, seed: int) -> float:
        """Compute the gradient of one batch of pairs, leave it in the model, and return the loss."""
        pairs = self.data.pairs[indices]
        if self.negatives is not None:
            negatives = self.negatives[indices]
        else:
            rng = np.random.default_rng([seed, 3, step])
            assert self.config.negatives is not None
            drawn = [self.data.draw_negatives(context, self.config.negatives, rng=rng) for context in pairs[:, 0].tolist()]
            negatives = np.array(drawn, dtype=np.int64).reshape(len(pairs), self.config.negatives)
        teacher = None if self.teacher_scores is None else self.teacher_scores[torch.from_numpy(indices)]
        if isinstance(self.ranker, CrossRanker):
            return self._cross_step(self.ranker, pairs, negatives, step=step, seed=seed)
        assert isinstance(self.ranker, DualRanker)
        return self._dual_step(self.ranker, pairs, negatives, teacher, step=step, seed=seed)

    def _dual_step(
        self, ranker: DualRanker, pairs: np.ndarray, negatives: np.ndarray, teacher: Tensor | None, *, step: int, seed: int
    ) -> float:
        """Rank all the batch's candidates for every context."""
        columns = np.concatenate([pairs[:, 1], negatives.reshape(-1)])
        targets, is_excluded = _columns(columns, [self.data.right[context] for context in pairs[:, 0]])
        targets, is_excluded = targets.to(self.device), is_excluded.to(self.device)
        lengths = torch.tensor([len(self.context_ids[context]) for context in pairs[:, 0]], device=self.device)
        is_vector = ranker.head.is_vector(lengths) if ranker.type == "poly" else None
        batch, count = negatives.shape
        vectors = ranker.head.vectors
        own = torch.cat([torch.arange(batch)[:, None], batch + torch.arange(batch * count).view(batch, count)], dim=1).to(self.device)

        def ranking_loss(contexts: Tensor, candidates: Tensor) -> Tensor:
            scores = _scores_in_parts(contexts, candidates, is_vector)
            loss = candidate_cross_entropy(scores, targets, is_excluded=is_excluded)
            if teacher is None:
                return loss
            taught = listwise_distillation(scores.gather(1, own), teacher.to(self.device), temperature=self.config.teacher_temperature)
            return (1 - self.config.teacher_weight) * loss + self.config.teacher_weight * taught

        if self.frozen is not None:
            return self._frozen_step(ranker, self.frozen, pairs[:, 0], columns, ranking_loss)

        def loss(rows: Tensor) -> Tensor:
            items = rows.view(batch, vectors + 1 + count, ranker.dim)
            wrong = items[:, vectors + 1 :].reshape(-1, ranker.dim)
            return ranking_loss(items[:, :vectors], torch.cat([items[:, vectors], wrong]))

        def embed(part: _Part) -> Tensor:
            found = []
            if part.contexts:
                found.append(ranker.context_vectors(part.contexts, share_rows=True).reshape(-1, ranker.dim))
            if part.candidates:
                found.append(ranker.candidate_vectors(part.candidates, share_rows=True))
            return torch.cat(found)

        def reseed(part: int) -> None:
            torch.manual_seed(step_seed(seed, step, part * distributed.world_size() + distributed.rank()))

        parts = self._parts(pairs, negatives, vectors)
        value = cached_gradients(
            parts,
            rows=[part.rows for part in parts],
            embed=embed,
            loss=loss,
            reseed=reseed,
            total=batch,
            rows_each=vectors + 1 + count,
            after_part=self.weights.take_gradients,
        )
        self._sum_gradients()
        return value

    def _parts(self, pairs: np.ndarray, negatives: np.ndarray, vectors: int) -> list[_Part]:
        """Split this process's share of the batch into micro-batches; an item's rows are context vectors, answer and negatives."""
        share = distributed.share_of(len(pairs))
        pairs, negatives = pairs[share], negatives[share]
        each = vectors + 1 + negatives.shape[1]
        contexts = [self.context_ids[context] for context in pairs[:, 0]]
        candidates = [self.candidate_ids[one] for one in np.concatenate([pairs[:, 1:], negatives], axis=1).reshape(-1)]
        context_rows = [[item * each + index for index in range(vectors)] for item in range(len(pairs))]
        candidate_rows = [item * each + index for item in range(len(pairs)) for index in range(vectors, each)]
        tokens = sum(map(len, contexts)) + sum(map(len, candidates))
        if tokens <= self.config.micro_batch_tokens:
            return [_Part(contexts, candidates, [*(row for rows in context_rows for row in rows), *candidate_rows])]
        parts = []
        for chosen in batches_by_tokens([len(ids) for ids in contexts], batch_tokens=self.config.micro_batch_tokens):
            parts.append(_Part([contexts[item] for item in chosen], [], [row for item in chosen for row in context_rows[item]]))
        for chosen in batches_by_tokens([len(ids) for ids in candidates], batch_tokens=self.config.micro_batch_tokens):
            parts.append(_Part([], [candidates[item] for item in chosen], [candidate_rows[item] for item in chosen]))
        return parts

    def _frozen_step(
        self,
        ranker: DualRanker,
        frozen: FrozenTower,
        contexts: np.ndarray,
        columns: np.ndarray,
        ranking_loss: Callable[[Tensor, Tensor], Tensor],
    ) -> float:
        """Train codes and scale on the cached encoder outputs; every process computes the whole batch."""
        tokens, is_token = frozen.tokens(contexts)
        loss = ranking_loss(ranker.head.contexts(tokens, is_token), ranker.head.candidates(frozen.candidates(columns)))
        return backward(loss)()

    def _cross_step(self, ranker: CrossRanker, pairs: np.ndarray, negatives: np.ndarray, *, step: int, seed: int) -> float:
        """Rank each context's own list. The loss is a sum over contexts, so micro-batches need no second pass."""
        share = distributed.share_of(len(pairs))
        lists = np.concatenate([pairs[:, 1:], negatives], axis=1)
        joined = [
            [ranker.pair_ids(self.context_ids[context], self.candidate_ids[one]) for one in row]
            for context, row in zip(pairs[share, 0], lists[share], strict=True)
        ]
        read = []
        tokens = [sum(len(ids) for ids, _ in row) for row in joined]
        for part, chosen in enumerate(batches_by_tokens(tokens, batch_tokens=self.config.micro_batch_tokens)):
            torch.manual_seed(step_seed(seed, step, part * distributed.world_size() + distributed.rank()))
            scores = ranker.pair_scores([pair for item in chosen for pair in joined[item]], share_rows=True).view(len(chosen), -1)
            targets = torch.zeros(len(chosen), dtype=torch.long, device=self.device)
            loss = candidate_cross_entropy(scores, targets) * (len(chosen) / len(pairs))
            read.append(backward(loss))
            self.weights.take_gradients()
        self._sum_gradients()
        return distributed.summed(sum(each() for each in read))

    def _sum_gradients(self) -> None:
        """Sum the gradients of all processes, in float32."""
        if distributed.world_size() > 1:
            self.weights.take_gradients()
            distributed.sum_gradients(self.weights.masters)

    # ---- checkpoints and the saved folder

    def _saving(self, seed: int, steps: int) -> Saving | None:
        if self.output is None:
            return None
        identity = self._identity(seed) | {"steps": steps}
        every_s = self.config.checkpoint_every_s if distributed.rank() == 0 else None
        folder = self._checkpoint_folder(seed)
        return Saving(folder, every_s, self._goes_on(seed), identity)

    def _goes_on(self, seed: int) -> bool:
        """Whether a seed is resumed; one without a checkpoint is trained again, with the same result."""
        return self.config.resume and self._checkpoint_folder(seed).exists()

    def _identity(self, seed: int) -> dict[str, Any]:
        skipped = {"resume", "seeds", "checkpoint_every_s", "device", "dtype"}
        identity = {name: value for name, value in asdict(self.config).items() if name not in skipped}
        return identity | {
            "model": str(self.model),
            "content of the model": self.weights_digest,
            "seed": seed,
            "pairs": len(self.data.pairs),
            "content of the pairs": self.data.digest,
            "number_type": str(self.dtype),
        }

    def _begun_in(self) -> str | None:
        """The data type of the resumed run."""
        return (
            dtype_of(checkpoint_folders(self.output, seed=self.config.seed, seeds=self.config.seeds))
            if self.config.resume and self.output is not None
            else None
        )

    def _checkpoint_folder(self, seed: int) -> Path:
        assert self.output is not None
        return checkpoint_folder(self.output, seed)

    def _best_folder(self, seed: int) -> Path:
        assert self.output is not None
        return self.output.parent / f".{self.output.name}.best-{seed}"

    def _save(self, result: Ranked) -> None:
        assert self.output is not None
        run = result.runs[result.best]
        record = {
            "method": "Poly-encoders (bi-, poly- and cross-encoders)",
            "base_model": str(self.model),
            "config": asdict(result.config),
            "counts": result.counts,
            "steps": run.steps,
            "seeds": [each.seed for each in result.runs],
            "best_seed": run.seed,
            "layout": self.ranker.towers[0].layout,
            "number_type": str(self.dtype).removeprefix("torch."),
            "training_s": round(run.seconds, 2),
            "final_loss": run.losses[-1],
            "validations": run.validations,
            "measured_on": result.measured_on,
            "chosen_on_the_same": run.after is not None,  # held-out contexts also decided learning rates, weights and seed
            "worse": result.worse,
            "figures": {"before": result.before, "after": run.after, "all_seeds": [each.after for each in result.runs]},
            "fingerprint": self.ranker.fingerprint,
        }
        with whole_folder(self.output, overwrite=self.overwrite, was_free=True) as folder:
            self.ranker.save(folder, record=record, card=ranker_card(self.output.name, self.ranker.type, record))
        for each in result.runs:
            shutil.rmtree(self._checkpoint_folder(each.seed), ignore_errors=True)
            drop_leftovers(self._checkpoint_folder(each.seed))
            shutil.rmtree(self._best_folder(each.seed), ignore_errors=True)


class BestWeights:
    """Keeps the weights of the best validation, on disk if the run can be resumed, else in memory.

    Args:
        folder: Folder for the weights; None for memory.
        optimizer: Optimizer that holds the weights.
        identity: Identity of the run; weights of another run are refused.
    """

    def __init__(self, folder: Path | None, optimizer: Optimizer, identity: dict[str, Any]) -> None:
        self.folder, self.weights, self.identity = folder, optimizer.weights, identity
        self._kept: dict[str, Tensor] = {}

    def keep(self, figure: float) -> None:
        if self.folder is None:
            self._kept = {name: tensor.clone() for name, tensor in self.weights.state().items()}
        elif distributed.rank() == 0:
            save_checkpoint(self.folder, Checkpoint(0, self.identity, {"best": figure}), self.weights.state())

    def load(self, figure: float) -> None:
        """Put the kept weights back.

        Args:
            figure: The figure that they were kept with. The folder may hold better weights, found after the last checkpoint of an
                interrupted run. They are accepted only from this run, which repeats itself exactly on a CPU with the same threads.

        Raises:
            UserError: The folder's weights belong to another run.
        """
        distributed.wait_for_all()
        if self.folder is None:
            self.weights.load_state(self._kept)
            return
        kept, tensors = load_checkpoint(self.folder, identity=self.identity, defaults={})
        if kept.figures["best"] < figure:
            raise UserError(
                f"the weights in {str(self.folder)!r} are not the best of this run: start over with --overwrite and without --resume"
            )
        self.weights.load_state(tensors)


def _columns(columns: np.ndarray, right: Sequence[frozenset[int]]) -> tuple[Tensor, Tensor]:
    """Targets (batch,), and a mask (batch, candidates) of candidates that are not negatives of a context.

    Only the first column of a repeated candidate counts, so the loss equals that of the batch without repeats. Other correct answers of
    the same context are masked out of the softmax.
    """
    first: dict[int, int] = {}
    for column, candidate in enumerate(columns.tolist()):
        first.setdefault(candidate, column)
    is_repeat = np.array([first[candidate] != column for column, candidate in enumerate(columns.tolist())])
    is_excluded = np.tile(is_repeat, (len(right), 1))
    for row, answers in enumerate(right):
        is_excluded[row, [first[answer] for answer in answers if answer in first]] = True
    targets = [first[candidate] for candidate in columns[: len(right)].tolist()]
    return torch.tensor(targets), torch.from_numpy(is_excluded)


def _scores_in_parts(contexts: Tensor, candidates: Tensor, is_vector: Tensor | None) -> Tensor:
    """``poly_scores`` in chunks of contexts that fit in memory; the backward pass recomputes them."""
    at_once = max(1, _SIMILARITIES // (contexts.shape[1] * len(candidates)))
    if at_once >= len(contexts):
        return poly_scores(contexts, candidates, is_vector=is_vector)
    parts = contexts.split(at_once)
    are_vectors = [None] * len(parts) if is_vector is None else is_vector.split(at_once)
    return torch.cat(
        [
            checkpoint(poly_scores, part, candidates, is_vector=is_there, use_reentrant=False, preserve_rng_state=False)
            for part, is_there in zip(parts, are_vectors, strict=True)
        ]
    )


@torch.no_grad()
def _put(module: torch.nn.Module, values: dict[str, Tensor]) -> None:
    parameters = dict(module.named_parameters())
    for name, tensor in values.items():
        parameters[name].copy_(tensor)


def _worse(before: dict[str, float] | None, after: dict[str, float] | None) -> list[str]:
    if before is None or after is None or after["MRR"] >= before["MRR"]:
        return []
    return [f"MRR {after['MRR']:.1f}, untrained {before['MRR']:.1f}"]


def _figure(run: RankRun) -> float:
    return run.after["MRR"] if run.after is not None else -run.losses[-1]


def _in_words(figures: dict[str, float] | None) -> str:
    if figures is None:
        return "no held-out contexts to measure on"
    return ", ".join(f"{name} {value:.1f}" for name, value in figures.items())

"""Try the label-free recipes on the user's own texts, measure each on held-out texts, and keep the best encoder."""

import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tain.evaluation.baselines import Lexical, Static
from tain.evaluation.figures import Figure
from tain.evaluation.label_free import label_free_bootstrap
from tain.evaluation.metrics import Interval
from tain.evaluation.report import EvaluationReport
from tain.evaluation.report import evaluate as evaluate_encoders
from tain.evaluation.suites.label_free import LABEL_FREE
from tain.evaluation.suites.registry import is_table, load_suites
from tain.evaluation.suites.suite import SuiteOptions
from tain.foundation.errors import UserError
from tain.foundation.files import refuse_existing, refuse_inputs, refuse_link, whole_file, whole_folder
from tain.foundation.json_files import Field, read_object
from tain.foundation.locks import writes_output
from tain.foundation.machine import choose_device, keep_freed_memory, versions
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.models.saved import locate, read_record
from tain.recipes.compare.config import BASELINES, CANDIDATES, MIRRORED, CompareConfig
from tain.recipes.compare.data import Material, split_material
from tain.recipes.compare.encoders import OneAtATime, Timed, is_unfit
from tain.recipes.compare.model_card import UNTOUCHED, card_part
from tain.recipes.compare.page import comparison_page
from tain.recipes.compare.verdict import Standing, Verdict, decide, mean_figure
from tain.recipes.correct.recipe import correct
from tain.recipes.mirror.config import MirrorConfig
from tain.recipes.mirror.recipe import mirror
from tain.recipes.pretrain.config import PretrainConfig
from tain.recipes.pretrain.recipe import pretrain
from tain.recipes.shared.settings import resolve_config
from tain.text.scripts import units
from tain.training.checkpoint import checkpoint_folder

MRR = "self_retrieval_mrr"
_FIGURE = "self-retrieval MRR"
_COSTS = {
    "lexical": 1,
    "characters": 1,
    "static": 1,
    "raw": 2,
    "whitened": 4,
    "fast": 5,
    "joined": 8,
    "mirror": 30,
    "neighbours": 30,
    "continued": 60,
    "best": 100,
}  # relative, for the bar
_TRAINED = ("mirror", "neighbours", "continued", "best")
_ALWAYS = ("lexical", "characters", "raw")  # a second or so, and without them there is nothing to compare with
_PASSES = 2  # of continued pretraining over the texts
_BLOCK_TOKENS, _MOST_BLOCKS = 128, 32
_TOKENS_PER_WORD = 1.4
_TRAINING_COST = 4.0  # of a token in masked language modelling, relative to encoding it
_WHITENING_TEXTS = 10_000
_FEWEST_STEPS = 16  # smaller batches for fewer texts, as a budget of tain mirror has them
_FINISH_S = 3.0  # copying the winner, the page
_TOKEN_PAIRS_A_SECOND = 7000  # training of token vectors, on one core
_WORK = {"identity": Field(kind=dict)}
_MEASURED = {
    "name": Field(kind=str),
    "made_s": Field(kind=float, least=0),
    "texts_a_second": Field(kind=float, least=1e-9),
    "figures": Field(kind=dict),
    "values": Field(kind=list, items=Field(kind=float)),
}


@dataclass(frozen=True)
class Measured:
    """A candidate with its figures.

    Attributes:
        name: One of ``CANDIDATES``.
        made_s: Seconds to make it.
        texts_a_second: Encoding speed on the held-out texts and their copies.
        figures: Its label-free report on the held-out texts.
        values: Self-retrieval MRR on each bootstrap resample.
    """

    name: str
    made_s: float
    texts_a_second: float
    figures: dict[str, Any]
    values: list[float] = field(repr=False)


@dataclass(frozen=True)
class Compared:
    """Result of a comparison.

    Attributes:
        model: The model that the recipes started from.
        measured: The candidates, in the order in which they were tried.
        skipped: Candidates that were not tried, with the reason.
        verdict: The choice; by labels if there are any.
        unlabelled: The choice by self-retrieval alone.
        labelled: Evaluation of all candidates on the labelled sets, the leader first; None without sets.
        counts: Numbers of texts: given, blank, repeated, held_out, train.
        folder: The winner's folder.
        config: The settings.
        seconds: Time of the whole comparison.
    """

    model: str
    measured: tuple[Measured, ...]
    skipped: dict[str, str]
    verdict: Verdict
    unlabelled: Verdict
    labelled: EvaluationReport | None
    counts: dict[str, int]
    folder: Path
    config: CompareConfig
    seconds: float

    @property
    def winner(self) -> str:
        return self.verdict.winner

    def advice(self) -> list[str]:
        """Say which candidate to use and how sure that is, one sentence an item."""
        seconds = {each.name: each.made_s for each in self.measured}
        said = self.verdict.sentences(seconds)
        if self.verdict is not self.unlabelled and self.unlabelled.winner != self.verdict.winner:
            said.append(f"Self-retrieval alone, without the labels, would have chosen {self.unlabelled.winner}.")
        if self.labelled is None:
            said.append("No labels were used, and labels may prefer another: a hundred scored pairs, given with --suite, decide better.")
        return said

    def rows(self) -> list[dict[str, Any]]:
        """The table, best first: candidate, figures, difference to the leader, time; then the candidates that were not tried."""
        by_name = {each.name: each for each in self.measured}
        rows = []
        for name in self.verdict.standings:
            each, standing = by_name[name], self.unlabelled.standings[name]
            row = {"candidate": name, "what": CANDIDATES[name], "made_s": each.made_s, "texts_a_second": each.texts_a_second}
            row |= {"self_retrieval": _plain(standing), "figures": each.figures}
            if self.labelled is not None:
                row["labelled"] = _plain(self.verdict.standings[name]) if name in self.verdict.standings else None
            rows.append(row)
        rows += [
            {"candidate": name, "what": CANDIDATES[name], "made_s": by_name[name].made_s, "texts_a_second": by_name[name].texts_a_second}
            | {"self_retrieval": _plain(self.unlabelled.standings[name]), "figures": by_name[name].figures, "labelled": None}
            for name in self.unlabelled.standings
            if name not in self.verdict.standings
        ]
        return rows + [{"candidate": name, "what": CANDIDATES[name], "skipped": reason} for name, reason in self.skipped.items()]

    def to_dict(self) -> dict[str, Any]:
        """Give everything for JSON, without the resamples."""
        return {
            "model": self.model,
            "winner": self.winner,
            "leader": self.verdict.leader,
            "level_with_winner": self.verdict.level,
            "decided_by": self.verdict.figure,
            "advice": self.advice(),
            "candidates": self.rows(),
            "labelled": None if self.labelled is None else self.labelled.to_dict(),
            "counts": self.counts,
            "config": asdict(self.config),
            "seconds": round(self.seconds, 1),
            "versions": versions(),
        }

    def __str__(self) -> str:
        """The table that ``tain compare`` prints, as plain text."""
        from rich.console import Console

        from tain.recipes.compare.table import comparison_table

        console = Console(width=120, no_color=True)
        with console.capture() as captured:
            console.print(comparison_table(self))
            for sentence in self.advice():
                console.print(sentence, markup=False)
        return captured.get()

    def _repr_html_(self) -> str:
        """The same table in a notebook."""
        from tain.foundation.ruled_table import as_html
        from tain.recipes.compare.table import comparison_table

        return as_html(comparison_table(self), *self.advice())


@writes_output
def compare(
    model: str | Path,
    texts: Iterable[Any],
    output: str | Path,
    *,
    config: CompareConfig | None = None,
    documents: Iterable[Any] | None = None,
    data: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | bool | None = None,
    began_s: float | None = None,
    **settings: Any,
) -> Compared:
    """Try label-free recipes on the user's own texts, and save the best encoder with the figures of all.

    Every recipe trains on the same texts and is measured on the same held-out texts: two copies of each, each without a block of its words, must find each other
    (self-retrieval). With labelled sets (``suite``) their figure decides instead.

    Args:
        model: A folder, a hub name, or ``tain-mini``.
        texts: Texts; or lines with document boundaries (``Sentence``), which are also used as documents.
        output: Folder for the winner, with ``compare.json`` and ``compare.html`` in it.
        config: All settings at once; or give settings by keyword.
        documents: Documents for recipes that use neighbouring sentences, each a list of its lines or sentences.
        data: Folder with the files of the labelled sets, as in ``evaluate``.
        overwrite: Replace ``output`` if it exists, and, without ``resume``, an interrupted comparison.
        progress: ``False`` shows nothing; ``None`` (default) shows a bar on a terminal or in a notebook; or a ``Progress``.
        began_s: Start time of ``budget_s``, by ``time.monotonic()``; default: now.
        **settings: Fields of ``CompareConfig``.

    Raises:
        UserError: Settings, texts or model are invalid, or no encoder could be made.

    Examples:
        >>> import tain
        >>> texts = [f"{who} sees a boat near the river number {number}" for who in ("she", "he") for number in range(80)]
        >>> result = tain.compare("tain-mini", texts, "chosen", candidates="static+raw", held_out=20, resamples=100)
        >>> sorted(result.verdict.standings)
        ['raw', 'static']
        >>> tain.load("chosen").encode("a text").shape
        (384,)
    """
    began_s = time.monotonic() if began_s is None else began_s
    progress = Progress.resolve(progress)
    config = resolve_config(CompareConfig, "compare", config, settings)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a comparison runs in one process: start it without torchrun")
    output = Path(output)
    inputs = [model, data, *filter(is_table, config.suite)]
    refuse_existing(output, overwrite=overwrite, is_folder=True, inputs=inputs)
    refuse_inputs(_work_folder(output), inputs)
    locate(model)
    sets = Path(data) if data is not None else None
    if LABEL_FREE.name in config.suite:
        raise UserError(f"suite {LABEL_FREE.name} has no labels, and is measured anyway: give labelled sets, or leave it out")
    if config.suite:
        _ = load_suites(config.suite, SuiteOptions(data=sets, split=config.split))  # a wrong name or folder is refused before any training
    elif sets is not None:
        raise UserError("data only applies to labelled sets: give --suite too, or leave --data out")
    material = split_material(texts, config, documents)
    if choose_device(config.device).type == "cpu":
        keep_freed_memory()
    run = _Run(str(model), material, config, output, sets, overwrite, progress, began_s)
    return run.compare()


class _Run:
    """One comparison: its candidates are made and measured in a hidden folder beside the output."""

    def __init__(
        self,
        model: str,
        material: Material,
        config: CompareConfig,
        output: Path,
        data: Path | None,
        overwrite: bool,
        progress: Progress,
        began_s: float,
    ) -> None:
        self.model, self.material, self.config, self.output, self.data = model, material, config, output, data
        self.overwrite, self.progress, self.began_s = overwrite, progress, began_s
        self.work = _work_folder(output)
        self.raw_s = 0.0  # of encoding a text with the untouched model

    def compare(self) -> Compared:
        names = [name for name in self.config.names if name != "neighbours" or self.material.documents is not None]
        if self.config.candidates is not None and len(names) < len(self.config.names):
            raise UserError("candidates names neighbours, but there are no documents: give --documents, or leave it out")
        if self.config.candidates is None and self.config.level == "word":
            names.remove("joined")
        self._refuse_settings(names)
        self._open_work()
        measured: dict[str, Measured] = {}
        skipped: dict[str, str] = {}
        with self.progress.task("compare", sum(_COSTS[name] for name in names)) as task:
            for place, name in enumerate(names):
                part = self.progress.part(name, of=task)
                found = self._finished(name)
                if found is None:
                    try:
                        found = self._measure(name, part, coming=names[place + 1 :])
                    except UserError as error:  # a recipe refuses this model or these texts: the others go on, and the table says why
                        skipped[name] = str(error)
                if found is not None:
                    measured[name] = found
                    self._log(found, number=place + 1)
                    self.raw_s = 1 / found.texts_a_second if name == "raw" else self.raw_s
                task.advance(_COSTS[name])
        if not set(measured) - set(BASELINES):
            shutil.rmtree(self.work, ignore_errors=True)
            raise UserError(f"no encoder could be made: {'; '.join(f'{name}: {reason}' for name, reason in skipped.items())}")
        figures = {name: each.figures[MRR] for name, each in measured.items()}
        unlabelled = decide(figures, {name: each.values for name, each in measured.items()}, figure=_FIGURE)
        verdict, labelled = self._by_labels(unlabelled) if self.config.suite else (unlabelled, None)
        if labelled is not None:
            self.progress.log({f"{name}/labelled": standing.value for name, standing in verdict.standings.items()}, step=len(names))
        result = Compared(
            self.model,
            tuple(measured.values()),
            skipped,
            verdict,
            unlabelled,
            labelled,
            self.material.counts,
            self.output,
            self.config,
            time.monotonic() - self.began_s,
        )
        self._save(result)
        return result

    def _refuse_settings(self, names: Sequence[str]) -> None:
        """Refuse settings that a recipe would refuse after others were made and measured.

        Raises:
            UserError: A recipe refuses them, or the model cannot read ``max_tokens``.
        """
        for name in names:
            if name in MIRRORED:
                self._settings(name, ())
        wanted = self.config.max_tokens
        if wanted is not None and wanted > (longest := self._load_model().max_tokens):
            raise UserError(f"max_tokens is {wanted}, but the model reads {longest} at most: give {longest} or fewer")

    # ---- the hidden folder

    def _open_work(self) -> None:
        """Create the hidden folder, or check that its content belongs to this comparison."""
        skipped = ("resume", "budget_s", "candidates", "device", "suite", "split")
        identity = {name: value for name, value in asdict(self.config).items() if name not in skipped}
        identity |= {"model": self.model, "texts": self.material.digest()}
        refuse_link(self.work)
        if self.work.exists() and not self.config.resume:
            if not self.overwrite:
                raise UserError(
                    f"{str(self.work)!r} holds finished candidates of an earlier comparison: continue it with --resume, or give --overwrite to start over"
                )
            shutil.rmtree(self.work)
        if self.config.resume:
            if not (self.work / "work.json").is_file():
                raise UserError(f"there is nothing to resume: {str(self.work)!r} does not exist; start without --resume")
            damaged = f"the interrupted comparison {str(self.work)!r} is damaged"
            there = read_object(self.work / "work.json", _WORK, damaged=damaged, advice="start over with --overwrite and without --resume")
            here = json.loads(json.dumps(identity))
            if changed := sorted(name for name in here if there["identity"].get(name) != here[name]):
                raise UserError(
                    f"the interrupted comparison was begun with other settings or texts ({', '.join(changed)}): give the same, or start over"
                    " with --overwrite and without --resume"
                )
            return
        with whole_folder(self.work) as folder:
            (folder / "work.json").write_text(json.dumps({"identity": identity}, indent=2) + "\n", encoding="utf-8")

    def _finished(self, name: str) -> Measured | None:
        path = self.work / f"{name}.json"
        if not path.is_file():
            return None
        damaged = f"the interrupted comparison {str(self.work)!r} is damaged"
        content = read_object(path, _MEASURED, damaged=damaged, advice="start over with --overwrite and without --resume")
        return Measured(**{key: content[key] for key in _MEASURED})

    def _log(self, found: Measured, *, number: int) -> None:
        """Tell trackers a candidate's figures; its number among the candidates is the step."""
        numbers = {name: value for name, value in found.figures.items() if isinstance(value, int | float)}
        numbers |= {"made_s": found.made_s, "texts_a_second": found.texts_a_second}
        self.progress.log({f"{found.name}/{name}": value for name, value in numbers.items()}, step=number)

    # ---- one candidate

    def _measure(self, name: str, progress: Progress, *, coming: Sequence[str]) -> Measured:
        """Make a candidate, measure it, and keep both.

        Raises:
            UserError: It does not fit the budget, or refuses the model or the texts.
        """
        self._refuse_late(name)
        began_s = time.monotonic()
        if name not in BASELINES and not (self.work / name).exists():
            self._make(name, progress, coming)
        made_s = time.monotonic() - began_s
        timed = Timed(self._load(name))
        rng = np.random.default_rng([self.config.seed, 12])
        report, values = label_free_bootstrap(
            timed,
            self.material.held,
            level=self.config.level,
            max_texts=len(self.material.held),
            resamples=self.config.resamples,
            rng=rng,
        )
        found = Measured(name, made_s, timed.texts / max(timed.seconds, 1e-9), report.to_dict(), values[MRR].tolist())
        with whole_file(self.work / f"{name}.json", overwrite=True, follow=False) as path:
            path.write_text(json.dumps(asdict(found)) + "\n", encoding="utf-8")
        return found

    def _make(self, name: str, progress: Progress, coming: Sequence[str]) -> None:
        """Write a candidate's folder."""
        config, folder = self.config, self.work / name
        if name == "raw":
            embedder = self._load_model()
            record = {**embedder.record, "kind": "encoder", "base_model": self.model, "method": "untouched"}
            with whole_folder(folder) as path:
                embedder.save(path, record=record, card=UNTOUCHED.format(model=self.model))
        elif name == "whitened":
            options: dict[str, Any] = {"device": config.device, "trust_remote_code": config.trust_remote_code}
            texts = self.material.train[:_WHITENING_TEXTS]
            correct(self.model, texts, folder, method="whiten", progress=progress, **options)
        elif name == "continued":
            self._continue(folder, progress, coming)
        else:
            documents = self.material.documents if name in ("fast", "joined", "best", "neighbours") else None
            more: dict[str, Any] = {} if documents is None else {"documents": documents}
            settings = self._settings(name, coming)
            has_begun = (checkpoint_folder(folder, config.seed) / "state.json").exists()
            settings = replace(settings, resume=has_begun and settings.budget_s is None)
            mirror(self.model, self.material.train, folder, config=settings, overwrite=has_begun, progress=progress, **more)

    def _continue(self, folder: Path, progress: Progress, coming: Sequence[str]) -> None:
        """Continue the model's pretraining on the texts, half of the time if there is a budget, then mirror it."""
        config, model = self.config, self.work / "continued-model"
        settings = self._settings("continued", coming)
        began_s = time.monotonic()
        tokens = self._pretraining_tokens(settings.budget_s)
        if not model.exists():
            with tempfile.TemporaryDirectory(dir=self.work) as place:
                source = Path(place) / "texts.txt"
                source.write_text("".join(f"{line}\n" for line in self.material.running_lines()), encoding="utf-8")
                block_tokens = min(_BLOCK_TOKENS, self._load_model().max_tokens)
                pretraining = PretrainConfig(
                    tokens=tokens,
                    block_tokens=block_tokens,
                    batch_blocks=max(1, min(_MOST_BLOCKS, int(tokens / block_tokens / _FEWEST_STEPS))),
                    masking_rate=0.15,
                    optimizer="adamw",
                    learning_rate=5e-5,
                    seed=config.seed,
                    device=config.device,
                    dtype=config.dtype,
                    trust_remote_code=config.trust_remote_code,
                )
                pretrain(self.model, [source], model, config=pretraining, overwrite=True, progress=progress)
        if settings.budget_s is not None:
            settings = replace(settings, budget_s=max(settings.budget_s - (time.monotonic() - began_s), 0.1))
        mirror(str(model), self.material.train, folder, config=settings, overwrite=folder.exists(), progress=progress)
        record = read_record(folder) | {"base_model": self.model, "continued_pretraining": {"tokens": tokens}}
        (folder / "tain.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        card = folder / "README.md"
        card.write_text(card.read_text(encoding="utf-8").replace(str(model), self.model), encoding="utf-8")

    def _pretraining_tokens(self, budget_s: float | None) -> float:
        """Two passes over the texts; with a budget, at most what half of it allows."""
        words = sum(len(units(line)) for line in self.material.running_lines())
        tokens = max(float(_BLOCK_TOKENS), _PASSES * _TOKENS_PER_WORD * words)
        if budget_s is None or not self.raw_s:
            return tokens
        per_text = _TOKENS_PER_WORD * sum(len(units(text)) for text in self.material.held) / len(self.material.held)
        return min(tokens, max(float(_BLOCK_TOKENS), budget_s / 2 / (_TRAINING_COST * self.raw_s / per_text)))

    def _settings(self, name: str, coming: Sequence[str]) -> MirrorConfig:
        """Settings of a recipe; with a budget, its share of the time that is left."""
        config, texts = self.config, len(self.material.train)
        recipe = {"best": "best", "fast": "fast", "joined": "fast"}.get(name, "default")
        given: dict[str, Any] = {"recipe": recipe, "level": config.level, "held_out": 0, "max_texts": config.max_texts, "seed": config.seed}
        given |= {"device": config.device, "dtype": config.dtype, "trust_remote_code": config.trust_remote_code}
        given["batch_texts"] = min(200, max(2, texts // _FEWEST_STEPS))
        given["max_tokens"] = config.max_tokens
        if name == "neighbours":
            given["positives"] = "neighbours"
        if name == "joined":
            given["join"] = True
        if config.budget_s is not None:
            rest = [name, *(other for other in coming if other in _TRAINED)]
            share_s = (self._left_s() - self._measuring_s() * len(rest)) * _COSTS[name] / sum(_COSTS[each] for each in rest)
            if recipe == "fast":
                given["anchor_pairs"] = max(1, min(2_000_000, int(_TOKEN_PAIRS_A_SECOND * share_s / 2)))
            else:
                given["budget_s"] = max(share_s, 0.1)
        return MirrorConfig(**given)

    def _load(self, name: str) -> Any:
        """Load a candidate's encoder; a baseline has no folder."""
        if name == "lexical":
            return Lexical(self.material.held, name=name)  # frequencies without labels; fitted on all texts, its vectors would be far wider
        if name == "characters":
            return Lexical.of_characters(self.material.held)
        if name == "static":
            texts = self.material.train[:_WHITENING_TEXTS]
            static = Static.load(self.model, texts, trust_remote_code=self.config.trust_remote_code)
            static.name = name
            return static
        options: dict[str, Any] = {"device": self.config.device, "dtype": self.config.dtype}
        embedder = Embedder.load(self.work / name, trust_remote_code=self.config.trust_remote_code, **options)
        embedder.name = name
        return embedder

    def _load_model(self) -> Embedder:
        return Embedder.load(self.model, device=self.config.device, dtype="float32", trust_remote_code=self.config.trust_remote_code)

    # ---- time

    def _left_s(self) -> float:
        assert self.config.budget_s is not None
        return self.config.budget_s - (time.monotonic() - self.began_s) - _FINISH_S

    def _measuring_s(self) -> float:
        return 2.5 * self.raw_s * len(self.material.held) + 1.0  # texts and copies, the bootstrap, loading

    def _refuse_late(self, name: str) -> None:
        """Refuse a candidate that does not fit the time that is left.

        Raises:
            UserError: It does not.
        """
        if self.config.budget_s is None or name in _ALWAYS:
            return
        needed_s = self._measuring_s()
        if name == "whitened":
            needed_s += self.raw_s * min(_WHITENING_TEXTS, len(self.material.train))
        if name in _TRAINED:
            needed_s *= 2
        if (left_s := self._left_s()) < needed_s:
            raise UserError(f"needs about {needed_s:.0f} s, and {max(0.0, left_s):.0f} s of the budget were left")

    # ---- labels

    def _by_labels(self, unlabelled: Verdict) -> tuple[Verdict, EvaluationReport]:
        """Evaluate all candidates on the labelled sets, relative to the best of them."""
        suites = [suite.name for suite in load_suites(self.config.suite, SuiteOptions(data=self.data, split=self.config.split))]
        names = [name for name in unlabelled.standings if not is_unfit(name, suites)]
        report = self._evaluated(names)
        figure, figures = _deciding(report)
        known = [(name, of) for name, of in zip(names, figures, strict=True) if not math.isnan(of.value)]
        if not [name for name, _ in known if name not in BASELINES]:
            raise UserError(
                f"no encoder has a figure on {figure}: the cosines of each are all equal; give other labelled sets, with --resume to"
                " keep the finished candidates"
            )
        leader = max(known, key=lambda pair: pair[1].value)[0]
        if leader != names[0]:  # differences are to the first
            names = [leader, *(name for name in names if name != leader)]
            report = self._evaluated(names)
            figure, figures = _deciding(report)
        found = [(name, of) for name, of in zip(names, figures, strict=True) if not math.isnan(of.value)]
        standings = {}
        for name, of in sorted(found, key=lambda pair: -pair[1].value):
            ahead = Interval(0.0, 0.0)
            if of.difference_interval is not None:
                ahead = Interval(-of.difference_interval.high, -of.difference_interval.low)
            standings[name] = Standing(of.value, of.interval, -(of.difference or 0.0), ahead)
        winner = next(name for name in standings if name not in BASELINES)
        return Verdict(leader, winner, standings, figure, decimals=1), report

    def _evaluated(self, names: Sequence[str]) -> EvaluationReport:
        part = Progress.mute() if self.progress.style == "mute" else self.progress
        encoders = OneAtATime(self._load, names)
        return evaluate_encoders(
            encoders,
            self.config.suite,
            self.data,
            split=self.config.split,
            resamples=self.config.resamples,
            seed=self.config.seed,
            progress=part,
        )

    # ---- the result

    def _save(self, result: Compared) -> None:
        source = self.work / result.winner
        record = read_record(source)
        content = result.to_dict()
        record["compared"] = {key: content[key] for key in ("winner", "leader", "level_with_winner", "decided_by", "advice", "counts")}
        with whole_folder(self.output, overwrite=self.overwrite, was_free=True) as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True, symlinks=True)
            (folder / "tain.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            (folder / "compare.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            (folder / "compare.html").write_text(comparison_page(content, title=self.output.name), encoding="utf-8")
            card = (folder / "README.md").read_text(encoding="utf-8")
            for mark in ("# {}\n", '("{}")'):  # the title, and the code that loads it
                card = card.replace(mark.format(result.winner), mark.format(self.output.name))
            (folder / "README.md").write_text(card + card_part(content), encoding="utf-8")
        shutil.rmtree(self.work, ignore_errors=True)


def _deciding(report: EvaluationReport) -> tuple[str, list[Figure]]:
    """The figure that decides and its name: of the only suite, or the mean over all of them."""
    heads = report.headlines()
    if len(heads) == 1:
        name, row = heads[0]
        return name, list(row.figures)
    figures = [mean_figure(of_suites) for of_suites in zip(*(row.figures for _, row in heads), strict=True)]
    return f"mean of {len(heads)} suites ({'; '.join(name for name, _ in heads)})", figures


def _work_folder(output: Path) -> Path:
    """Hidden folder of the candidates, which a finished comparison removes."""
    return output.parent / f".{output.name}.compare"


def _plain(standing: Standing) -> dict[str, Any]:
    return {
        "value": standing.value,
        "interval": [standing.interval.low, standing.interval.high],
        "behind": standing.behind,
        "behind_interval": [standing.behind_interval.low, standing.behind_interval.high],
        "first_share": standing.first_share,
    }

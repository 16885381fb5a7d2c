"""Distillation: teach a student of one or two megabytes what a large model says of texts.

Kaliamoorthi et al. 2021 (pQRNN). The student needs no vocabulary, runs in eight bits and without torch.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tain.batches.augmentation import tokens_of
from tain.batches.order import ShuffledOrder, step_seed
from tain.batches.packing import batches_by_tokens, pack
from tain.batches.projection import UNIT, Projection, ProjectionConfig
from tain.batches.tokenizing import bare_ids, tokenise
from tain.encoders.qrnn import PQRNN, StudentShape
from tain.encoders.static import StaticStudent, frequency_weights
from tain.evaluation.metrics import spearman
from tain.evaluation.tagging import slot_f1
from tain.export.student import write_student
from tain.foundation.errors import UserError
from tain.foundation.files import refuse_existing, whole_folder
from tain.foundation.progress import Progress
from tain.foundation.runtime import choose_device, keep_freed_memory, versions
from tain.models.correction import LinearCorrection
from tain.models.embedder import Embedder
from tain.objectives.distillation import (
    contrastive_distillation,
    labelled_cross_entropy,
    mixed_cross_entropy,
    similarity_matching,
    vector_matching,
)
from tain.recipes.distil_card import student_card
from tain.recipes.distil_config import DistilConfig
from tain.recipes.distil_material import Lesson, Material, gather
from tain.recipes.distil_teacher import Teacher, load_teacher
from tain.runtime.student import GRAPH_FILE, PROJECTION_FILE, RECORD_FILE, RECORD_FORMAT, TOKENIZER_FILE, Student
from tain.text.records import Example
from tain.training.loop import Saving, Trained, train, warmup_then_linear
from tain.training.optimizer import MasterWeights, adamw


@dataclass(frozen=True)
class Distilled:
    """What distillation gives back.

    Attributes:
        student: The student as it runs from its file.
        module: The trained module.
        config: The settings, all filled in.
        figures: Measured on held-out texts, with the student's file; empty without such texts.
        sizes: Bytes of the graph, of all that the student needs, of the same weights in float32, of the teacher; and parameters.
        counts: What happened to the texts.
        trained: Steps, losses and seconds.
        folder: Where it was saved, if it was.
    """

    student: Student
    module: PQRNN | StaticStudent
    config: DistilConfig
    figures: dict[str, float]
    sizes: dict[str, int | None]
    counts: dict[str, int]
    trained: Trained
    folder: Path | None


def distil(
    teacher: str | Path,
    texts: Sequence[str] | Sequence[Example],
    output: str | Path | None = None,
    *,
    config: DistilConfig | None = None,
    labels: Sequence[str] | None = None,
    tags: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Distilled:
    """Teach a tiny student.

    Args:
        teacher: An encoder (``--task embed``), classifier or tagger folder, a matrix of its outputs on disk, or ``none`` for labels alone.
        texts: Texts; or examples with labels and tags where there are any.
        output: Folder for the student; None keeps it in memory only.
        config: All settings at once; or give single ones by name.
        labels: Names of the classes in the order of the teacher's logits; default: what its config says.
        tags: The same for tags.
        overwrite: Replace ``output`` if it exists.
        progress: Told what happens.
        **settings: Fields of ``DistilConfig``.

    Raises:
        UserError: Settings, texts or teacher cannot work.
    """
    progress = progress or Progress.silent()
    config = _config(config, settings).resolved()
    if output is not None:
        refuse_existing(Path(output), overwrite=overwrite)
    if isinstance(texts, str):
        raise UserError("distil was given one string, which would be read letter by letter: give a list of texts")
    examples = [text if isinstance(text, Example) else Example(text) for text in texts]
    device = choose_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    loaded = load_teacher(
        teacher,
        task=config.task,
        given=len(examples),
        labels=labels,
        tags=tags,
        device=device,
        trust_remote_code=config.trust_remote_code,
    )
    material = gather(examples, loaded, config, progress)
    reader = _StaticReader(loaded, config, device) if config.student == "static" else _HashedReader(config, device)
    torch.manual_seed(config.seed)
    module = reader.module(material).to(device)
    material.counts["truncated"] = reader.truncated([example.text for example in material.train.examples])
    if material.counts["truncated"]:
        progress.warn(
            f"{material.counts['truncated']:,} of {len(material.train):,} texts are longer than {config.max_tokens} tokens"
            " and the student reads them cut: raise --max-tokens to keep them whole"
        )
    session = _Session(loaded, config, material, reader, module, progress, Path(output) if output is not None else None)
    trained = session.train()
    return session.finish(trained, overwrite=overwrite)


def _config(config: DistilConfig | None, settings: dict[str, Any]) -> DistilConfig:
    if config is not None and settings:
        raise UserError(f"settings were given twice, as config and as {', '.join(settings)}: give one or the other")
    known = [entry.name for entry in fields(DistilConfig)]
    if unknown := sorted(set(settings) - set(known)):
        raise UserError(f"distil knows no setting {', '.join(unknown)}: it knows {', '.join(known)}")
    return config or DistilConfig(**settings)


# ---- how a student reads


class _HashedReader:
    """Texts as features of hashed tokens, for a pQRNN."""

    def __init__(self, config: DistilConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        assert config.features is not None and config.ngram_features is not None and config.separate is not None
        self.projection = Projection(
            ProjectionConfig(
                features=config.features,
                ngram_features=config.ngram_features,
                separate=config.separate,
                max_tokens=config.max_tokens,
            )
        )

    def module(self, material: Material) -> PQRNN:
        config = self.config
        assert config.features is not None and config.bottleneck is not None and config.state is not None and config.layers is not None
        assert config.zoneout is not None
        shape = StudentShape(
            features=config.features,
            bottleneck=config.bottleneck,
            state=config.state,
            layers=config.layers,
            kernel_width=config.kernel_width,
            bidirectional=not config.forward_only,
            text_outputs=_text_outputs(material),
            token_outputs=len(material.tags),
        )
        module = PQRNN(shape, zoneout=config.zoneout)
        taught = material.train.taught.text
        if config.task == "embed" and module.text_head is not None and taught is not None:
            with torch.no_grad():  # what all vectors share need not be learnt
                module.text_head.bias.copy_(torch.from_numpy(taught.mean(axis=0)))
        return module

    def truncated(self, texts: list[str]) -> int:
        """How many texts are longer than the student reads."""
        return sum(self.projection(texts[start : start + 1024]).truncated for start in range(0, len(texts), 1024))

    def outputs(self, module: torch.nn.Module, texts: list[str], rng: np.random.Generator) -> tuple[Tensor | None, Tensor | None]:
        assert self.config.distortion is not None
        projected = self.projection(texts, distortion=self.config.distortion, rng=rng)
        rows = torch.from_numpy(projected.rows).to(self.device).float() / UNIT
        return module(rows, torch.from_numpy(projected.ids).to(self.device))

    def save(self, folder: Path) -> None:
        self.projection.config.save(folder / PROJECTION_FILE)


class _StaticReader:
    """Texts as ids of the teacher's tokenizer, for a static student."""

    def __init__(self, teacher: Teacher, config: DistilConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        own = getattr(teacher, "embedder", None)
        if own is None and config.token_vectors is None:
            raise UserError(
                f"a static student starts from an encoder's token vectors, which teacher {teacher.name!r} has not: name one with --token-vectors"
            )
        if config.token_vectors is not None:
            own = Embedder.load(config.token_vectors, device=str(device), dtype="float32", trust_remote_code=config.trust_remote_code)
        assert isinstance(own, Embedder)
        self.embedder = own
        if getattr(own.tokenizer, "backend_tokenizer", None) is None:
            raise UserError(f"the tokenizer of {own.name!r} has no form that runs without transformers: name another with --token-vectors")

    def module(self, material: Material) -> StaticStudent:
        vocabulary = len(self.embedder.tokenizer)
        outputs = _text_outputs(material)
        module = StaticStudent(tokens=vocabulary + 1, dim=self.config.static_dim, outputs=outputs)
        counts = np.zeros(vocabulary)
        for ids in bare_ids(self.embedder.tokenizer, [example.text for example in material.train.examples]):
            np.add.at(counts, ids, 1)
        vectors = self._token_vectors(vocabulary)
        if outputs == vectors.shape[1] and self.config.task == "embed":
            module.start_from(vectors, frequency_weights(torch.from_numpy(counts).float()))
            return module
        head = {name: tensor.clone() for name, tensor in module.text_head.state_dict().items()}
        start = StaticStudent(tokens=vocabulary + 1, dim=self.config.static_dim, outputs=vectors.shape[1])
        start.start_from(vectors, frequency_weights(torch.from_numpy(counts).float()))
        with torch.no_grad():
            module.table.copy_(start.table)
        module.text_head.load_state_dict(head)
        return module

    @torch.inference_mode()
    def _token_vectors(self, vocabulary: int) -> Tensor:
        """The encoder's vector of each token alone, between the special tokens that texts have."""
        embedder = self.embedder
        (bare,), (whole,) = bare_ids(embedder.tokenizer, ["a"]), tokenise(embedder.tokenizer, ["a"], max_tokens=embedder.max_tokens).ids
        begin = next(place for place in range(len(whole)) if whole[place : place + len(bare)] == bare)
        alone = [[*whole[:begin], token, *whole[begin + len(bare) :]] for token in range(vocabulary)]
        vectors = torch.empty(vocabulary, embedder.encoder.dim)
        for batch in batches_by_tokens([len(ids) for ids in alone], batch_tokens=4096):
            vectors[np.asarray(batch)] = embedder.encoder(pack([alone[token] for token in batch])).float().cpu()
        if isinstance(embedder.correction, LinearCorrection):
            vectors = torch.from_numpy(embedder.correction.apply(vectors.numpy()))
        return vectors.clone()

    def truncated(self, texts: list[str]) -> int:
        """A mean has room for any number of tokens."""
        return 0

    def outputs(self, module: torch.nn.Module, texts: list[str], rng: np.random.Generator) -> tuple[Tensor | None, Tensor | None]:
        found = bare_ids(self.embedder.tokenizer, texts)
        ids = torch.zeros(len(texts), max(1, *map(len, found)), dtype=torch.long)
        for row, mine in enumerate(found):
            ids[row, : len(mine)] = torch.tensor(mine, dtype=torch.long) + 1
        return module(ids.to(self.device)), None

    def save(self, folder: Path) -> None:
        backend = self.embedder.tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.save(str(folder / TOKENIZER_FILE))


def _text_outputs(material: Material) -> int:
    taught = material.train.taught.text
    return len(material.labels) or (taught.shape[1] if taught is not None else 0)


# ---- a run


class _Session:
    """A teacher's lessons and a student, through training to the saved folder."""

    def __init__(
        self,
        teacher: Teacher,
        config: DistilConfig,
        material: Material,
        reader: _HashedReader | _StaticReader,
        module: PQRNN | StaticStudent,
        progress: Progress,
        output: Path | None,
    ) -> None:
        self.teacher, self.config, self.material, self.reader, self.module = teacher, config, material, reader, module
        self.progress, self.output = progress, output
        self.device = next(module.parameters()).device

    def train(self) -> Trained:
        config = self.config
        assert config.batch_texts is not None and config.epochs is not None
        order = ShuffledOrder(len(self.material.train), batch_texts=config.batch_texts, seed=config.seed)
        steps = order.steps_per_epoch * config.epochs
        weights = MasterWeights(self.module, number_type=torch.float32)
        optimizer = adamw(
            weights, learning_rate=config.learning_rate, weight_decay=config.weight_decay, buffers=dict(self.module.named_buffers())
        )
        self.module.train()
        trained = train(
            lambda step: self.gradient_step(order.batch(step), step=step),
            optimizer,
            steps=steps,
            progress=self.progress,
            name="distil",
            rate_factor=warmup_then_linear(steps, warmup_steps=max(1, steps // 20)),
            saving=self._saving(steps),
        )
        self.module.eval()
        return trained

    def gradient_step(self, places: np.ndarray, *, step: int) -> float:
        """Leave the gradient of one batch in the student and return its loss."""
        torch.manual_seed(step_seed(self.config.seed, step))
        texts = [self.material.train.examples[place].text for place in places]
        text, tokens = self.reader.outputs(self.module, texts, np.random.default_rng([self.config.seed, 3, step]))
        loss = torch.zeros((), device=self.device)
        if text is not None:
            loss = loss + (self._vector_loss(text, places) if self.config.task == "embed" else self._label_loss(text, places))
        if tokens is not None:
            loss = loss + self._tag_loss(tokens, places)
        loss.backward()
        return float(loss.detach())

    def _vector_loss(self, vectors: Tensor, places: np.ndarray) -> Tensor:
        taught = self.material.train.taught.text
        assert taught is not None
        teacher = torch.from_numpy(taught[places]).to(self.device)
        loss = contrastive_distillation(vectors, teacher, temperature=self.config.temperature)
        if self.config.similarity_weight:
            loss = loss + self.config.similarity_weight * similarity_matching(vectors, teacher)
        if self.config.vector_weight:
            loss = loss + self.config.vector_weight * vector_matching(vectors, teacher)
        return loss

    def _label_loss(self, logits: Tensor, places: np.ndarray) -> Tensor:
        taught = self.material.train.taught.text
        teacher = None if taught is None else torch.from_numpy(taught[places]).to(self.device)
        return self._class_loss(logits, teacher, torch.from_numpy(self.material.train.labels[places]).to(self.device))

    def _tag_loss(self, logits: Tensor, places: np.ndarray) -> Tensor:
        """Over all tokens that student and teacher have read, or people have tagged."""
        train = self.material.train
        lengths = [min(len(tokens_of(train.examples[place].text)), logits.shape[1], self.config.max_tokens) for place in places]
        flat = torch.cat([logits[row, :length] for row, length in enumerate(lengths)])
        given = [train.tags[place] for place in places]
        numbers = [np.full(length, -1) if tags is None else tags[:length] for tags, length in zip(given, lengths, strict=True)]
        labels = torch.from_numpy(np.concatenate(numbers)).to(self.device)
        if train.taught.tokens is None:
            return self._class_loss(flat, None, labels)
        taught = torch.from_numpy(
            np.concatenate([train.taught.tokens[place][:length] for place, length in zip(places, lengths, strict=True)])
        )
        is_read = ~taught.isnan().any(dim=1)
        return self._class_loss(flat[is_read], taught[is_read].to(self.device), labels[is_read])

    def _class_loss(self, logits: Tensor, teacher: Tensor | None, labels: Tensor) -> Tensor:
        if teacher is None:
            return labelled_cross_entropy(logits, labels)
        return mixed_cross_entropy(logits, teacher, labels, scale=self.config.logit_scale, hard_share=self.config.hard_share)

    def _checkpoint_folder(self) -> Path | None:
        return None if self.output is None else self.output.parent / f".{self.output.name}.checkpoint"

    def _saving(self, steps: int) -> Saving | None:
        folder = self._checkpoint_folder()
        if folder is None:
            return None
        skipped = {"resume", "checkpoint_every_s", "device"}
        identity = {name: value for name, value in asdict(self.config).items() if name not in skipped}
        identity |= {"teacher": self.teacher.name, "steps": steps, "texts": len(self.material.train)}
        return Saving(folder, self.config.checkpoint_every_s, self.config.resume, identity)

    # ---- the folder

    def finish(self, trained: Trained, *, overwrite: bool) -> Distilled:
        """Write the student, load it as anyone will, and measure that."""
        self.module.cpu()
        with _folder_for(self.output, overwrite=overwrite) as folder:
            write_student(self.module, folder / GRAPH_FILE)
            self.reader.save(folder)
            record = self._record(trained)
            _write_json(folder / RECORD_FILE, record)
            student = Student.load(folder)
            student.name = str(self.output or "student")
            sizes = self._sizes(folder)
            figures = self._figures(student)
            record |= {"sizes": sizes, "figures": figures}
            _write_json(folder / RECORD_FILE, record)
            (folder / "README.md").write_text(student_card(student.name, record), encoding="utf-8")
        student.record = record
        if (left := self._checkpoint_folder()) is not None:
            shutil.rmtree(left, ignore_errors=True)
        return Distilled(student, self.module, self.config, figures, sizes, self.material.counts, trained, self.output)

    def _record(self, trained: Trained) -> dict[str, Any]:
        return {
            "format": RECORD_FORMAT,
            "kind": "student",
            "method": "pQRNN" if self.config.student == "pqrnn" else "static token vectors",
            "task": self.config.task,
            "teacher": self.teacher.name,
            "dim": _text_outputs(self.material),
            "normalise": bool(getattr(getattr(self.teacher, "embedder", None), "normalise", False)),
            "labels": list(self.material.labels),
            "tags": list(self.material.tags),
            "config": asdict(self.config),
            "counts": self.material.counts,
            "steps": trained.steps,
            "training_s": round(trained.seconds, 2),
            "final_loss": trained.losses[-1] if trained.losses else None,
            "seed": self.config.seed,
            "versions": versions(),
        }

    def _sizes(self, folder: Path) -> dict[str, int | None]:
        graph = (folder / GRAPH_FILE).stat().st_size
        needed = sum((folder / name).stat().st_size for name in (PROJECTION_FILE, TOKENIZER_FILE) if (folder / name).exists())
        parameters = sum(parameter.numel() for parameter in self.module.parameters())
        return {
            "parameters": parameters,
            "graph_bytes": graph,
            "student_bytes": graph + needed,
            "float32_bytes": 4 * parameters,
            "teacher_bytes": self.teacher.size_bytes,
        }

    def _figures(self, student: Student) -> dict[str, float]:
        held = self.material.held
        if len(held) < 2:
            return {}
        if self.config.task == "embed":
            assert held.taught.text is not None
            return vector_figures(student.encode([example.text for example in held.examples]), held.taught.text)
        return _label_figures(student, held, self.material.labels, self.material.tags)


def vector_figures(student: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
    """How near a student's vectors come to its teacher's.

    Returns:
        ``cosine``: mean cosine of a text's two vectors. ``pairs``: Spearman's correlation of the cosines between texts.
        ``found``: share of texts whose own teacher vector is the nearest of all.
    """
    ours, theirs = (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12) for vectors in (student, teacher))
    between = ours @ theirs.T
    above = np.triu_indices(len(ours), k=1)
    correlation = spearman((ours @ ours.T)[above], (theirs @ theirs.T)[above]) if len(ours) > 2 else math.nan
    figures = {
        "cosine": float(np.diag(between).mean()),
        "pairs": correlation,
        "found": float((between.argmax(axis=1) == np.arange(len(ours))).mean()),
    }
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def _label_figures(student: Student, held: Lesson, labels: tuple[str, ...], tags: tuple[str, ...]) -> dict[str, float]:
    """Accuracy, slot F1 and share of texts without an error, of the student and, where there is one, of its teacher."""
    said = student.predict([example.text for example in held.examples])
    taught = held.taught
    sides: dict[str, tuple[list[str] | None, list[list[str]] | None]] = {
        "student": ([one.label or "" for one in said] if labels else None, [one.tags or [] for one in said] if tags else None)
    }
    if taught.text is not None or taught.tokens is not None:
        told = None if taught.text is None else [labels[number] for number in taught.text.argmax(axis=1)]
        tagged = None
        if taught.tokens is not None:
            tagged = [[tags[number] for number in np.nan_to_num(logits, nan=-np.inf).argmax(axis=1)] for logits in taught.tokens]
        sides["teacher"] = (told, tagged)
    figures: dict[str, float] = {}
    for side, (told, tagged) in sides.items():
        figures |= {f"{side}_{name}": value for name, value in _against_people(held, told, tagged).items()}
    teacher_told = sides.get("teacher", (None, None))[0]
    if teacher_told is not None and sides["student"][0] is not None:
        figures["agreement"] = float(np.mean([one == other for one, other in zip(sides["student"][0], teacher_told, strict=True)]))
    return figures


def _against_people(held: Lesson, told: list[str] | None, tagged: list[list[str]] | None) -> Mapping[str, float]:
    """Figures over the texts that people have labelled (and tagged)."""
    figures: dict[str, float] = {}
    examples = held.examples
    labelled = [place for place, example in enumerate(examples) if example.label]
    if told is not None and labelled:
        figures["accuracy"] = float(np.mean([told[place] == examples[place].label for place in labelled]))
    spelt = [place for place, example in enumerate(examples) if example.tags]
    if tagged is not None and spelt:
        figures["slot_f1"] = slot_f1([list(examples[place].tags or ()) for place in spelt], [tagged[place] for place in spelt])
        whole = [
            tagged[place] == list(examples[place].tags or ())
            and (told is None or not examples[place].label or told[place] == examples[place].label)
            for place in spelt
        ]
        figures["exact"] = float(np.mean(whole))
    return figures


@contextmanager
def _folder_for(output: Path | None, *, overwrite: bool) -> Iterator[Path]:
    if output is not None:
        with whole_folder(output, overwrite=overwrite) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

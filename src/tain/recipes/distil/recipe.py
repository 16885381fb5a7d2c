"""Train a student of two to four megabytes to predict a large model's outputs.

Kaliamoorthi et al. 2021 (pQRNN). The student needs no vocabulary and no torch, and has eight-bit weights.
"""

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tain.batches.order import ShuffledOrder, step_seed
from tain.batches.same_texts import id_keys, same_numbers
from tain.batches.tokenizing import tokenise_once
from tain.foundation.choices import Dtype
from tain.foundation.errors import UserError
from tain.foundation.files import refuse_existing, whole_folder
from tain.foundation.locks import refuse_several_processes, writes_output
from tain.foundation.machine import choose_device, fastest_dtype, keep_freed_memory, versions
from tain.foundation.progress import Progress
from tain.objectives.distillation import (
    contrastive_distillation,
    labelled_cross_entropy,
    mixed_cross_entropy,
    similarity_matching,
    vector_matching,
)
from tain.recipes.distil.config import NONE, DistilConfig
from tain.recipes.distil.data import DistillationData, check_texts, gather
from tain.recipes.distil.figures import label_figures, vector_figures
from tain.recipes.distil.model_card import student_card
from tain.recipes.distil.readers import Reader, encoder_of, reader_for
from tain.recipes.distil.start import save_weights, shaped_like_start
from tain.recipes.distil.teacher import Teacher, load_teacher
from tain.recipes.shared.settings import resolve_config
from tain.students.student import GRAPH_FILE, PROJECTION_FILE, RECORD_FILE, RECORD_FORMAT, TOKENIZER_FILE, Student
from tain.students.torch.export import write_student
from tain.students.torch.qrnn import PQRNN
from tain.students.torch.static import StaticStudent
from tain.text.collections import each_item
from tain.text.records import Example
from tain.text.tags import tokens_of
from tain.training.async_loss import backward
from tain.training.checkpoint import checkpoint_folder, dtype_of, refuse_nothing_to_resume, refuse_to_lose
from tain.training.loop import Saving, Trained, train, warmup_then_linear
from tain.training.optimizer import MasterWeights, adamw

_FEW_TOKENS = 1.5  # tokens per text, on average


@dataclass(frozen=True)
class Distilled:
    """A distilled student and its figures.

    Attributes:
        student: The student, loaded from its file.
        module: The trained module.
        config: The resolved settings.
        figures: Measured on held-out texts, with the student's file; empty without such texts.
        sizes: Bytes of the graph, of all files, of the same weights in float32 and of the teacher; number of parameters.
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


@writes_output
def distil(
    teacher: str | Path | Teacher,
    texts: Iterable[str] | Iterable[Example],
    output: str | Path | None = None,
    *,
    config: DistilConfig | None = None,
    classifier: str | Path | None = None,
    labels: Sequence[str] | None = None,
    tags: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress | bool | None = None,
    **settings: Any,
) -> Distilled:
    """Distil a model, or labels, into a tiny student.

    Args:
        teacher: An encoder (``--task embed``), classifier or tagger folder, a matrix of its outputs on disk, ``none`` for labels alone, or
            an object that labels texts.
        texts: Texts, or examples with labels and tags.
        output: Folder for the student; None keeps it in memory only.
        config: All settings at once; or give settings by keyword.
        classifier: Model for the labels of whole texts, if the teacher is a tagger.
        labels: Names of the classes in the order of the teacher's logits; default: those in its config.
        tags: Names of the tags, in the same way.
        overwrite: Replace ``output`` if it exists, and, without ``resume``, the checkpoint of an interrupted run.
        progress: ``False`` shows nothing; ``None`` (default) shows a bar on a terminal or in a notebook; or a ``Progress``.
        **settings: Fields of ``DistilConfig``.

    Raises:
        UserError: Settings, texts or teacher are invalid.

    Example:
        >>> import tain
        >>> texts = [f"text number {number} about the sea" for number in range(40)]
        >>> result = tain.distil("tain-mini", texts, "student", features=64, bottleneck=16, state=16, batch_texts=16, epochs=1, held_out=0)
        >>> tain.load("student").encode(["a text about the sea"]).shape
        (1, 384)
    """
    refuse_several_processes("distillation")
    progress = Progress.resolve(progress)
    config = shaped_like_start(resolve_config(DistilConfig, "distil", config, settings)).resolved()
    if output is not None:
        refuse_existing(Path(output), overwrite=overwrite)
        left = checkpoint_folder(Path(output))
        if config.resume:
            refuse_nothing_to_resume(left)
        else:
            refuse_to_lose([left], overwrite=overwrite)
    elif config.resume:
        raise UserError("resume continues from the checkpoint next to the output folder, but no output is given: give output")
    if (str(teacher) if isinstance(teacher, str | Path) else teacher.name) == NONE:
        config.refuse_teachers_settings()
    examples = [text if isinstance(text, Example) else Example(text) for text in each_item(texts)]
    token_counts = check_texts(examples, config)
    device = choose_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    if isinstance(teacher, str | Path):
        teacher = load_teacher(
            teacher,
            task=config.task,
            given=len(examples),
            token_counts=token_counts,
            classifier=classifier,
            labels=labels,
            tags=tags,
            device=device,
            trust_remote_code=config.trust_remote_code,
        )
    elif classifier is not None or labels or tags:
        raise UserError(
            "classifier, labels and tags only apply to a teacher given by name or file: leave them out, a teacher object has its own"
        )
    encoder = encoder_of(teacher, config, device)
    data = gather(examples, teacher, config, progress, encoder)
    if config.dtype == "auto":
        config = replace(config, dtype=_dtype(config, device, output))
    reader = reader_for(teacher, encoder, config, device)
    torch.manual_seed(config.seed)
    module = reader.module(data).to(device)
    data.counts["truncated"] = reader.truncated([example.text for example in data.train.examples])
    if data.counts["truncated"]:
        progress.warn(
            f"{data.counts['truncated']:,} of {len(data.train):,} texts are longer than {config.max_tokens} tokens"
            " and are cut for the student: raise --max-tokens to keep them whole"
        )
    if (mean := reader.mean_tokens([example.text for example in data.train.examples])) < _FEW_TOKENS:
        progress.warn(
            f"the student sees only {mean:.1f} tokens per text, so word order is lost: for writing without spaces give --split code-point"
        )
    trainer = DistilTrainer(teacher, config, data, reader, module, progress, Path(output) if output is not None else None)
    trained = trainer.train()
    return trainer.finish(trained, overwrite=overwrite)


def _dtype(config: DistilConfig, device: torch.device, output: str | Path | None) -> Dtype:
    """Data type of matrix products: that of the resumed run, or else the faster one on this machine."""
    if config.resume and output is not None and (begun_in := dtype_of([checkpoint_folder(Path(output))], key="dtype")):
        return "bfloat16" if begun_in == "bfloat16" else "float32"
    is_faster = config.student == "pqrnn" and fastest_dtype(device.type) == torch.bfloat16
    return "bfloat16" if is_faster else "float32"


# ---- a run


class DistilTrainer:
    """Trains a student on prepared data, from initial weights to the saved folder."""

    def __init__(
        self,
        teacher: Teacher,
        config: DistilConfig,
        data: DistillationData,
        reader: Reader,
        module: PQRNN | StaticStudent,
        progress: Progress,
        output: Path | None,
    ) -> None:
        self.teacher, self.config, self.data, self.reader, self.module = teacher, config, data, reader, module
        self.progress, self.output = progress, output
        self.device = next(module.parameters()).device
        self.same = self._same_texts() if config.task == "embed" else np.empty(0, dtype=np.int64)

    def _same_texts(self) -> np.ndarray:
        """Group texts that teacher or student cannot distinguish; texts of one group are not negatives of each other."""
        texts = [example.text for example in self.data.train.examples]
        numbers = same_numbers(self._teacher_keys(texts), self.reader.input_keys(texts))
        if alike := int((np.bincount(numbers)[numbers] > 1).sum()):
            self.progress.warn(
                f"{alike:,} of {len(texts):,} texts have the same tokens as others for the teacher or the student, so they are not used as each other's negatives"
            )
        return numbers

    def _teacher_keys(self, texts: list[str]) -> list[bytes]:
        """Keys of the teacher's inputs: token ids if known, else vectors."""
        embedder = self.teacher.embedder if self.teacher.reads else None
        if embedder is not None:
            return id_keys(tokenise_once(embedder.tokenizer, texts, max_tokens=embedder.max_tokens))
        taught = self.data.train.taught.text
        assert taught is not None
        return [np.ascontiguousarray(row).tobytes() for row in taught]

    def train(self) -> Trained:
        config = self.config
        assert config.batch_texts is not None and config.epochs is not None
        order = ShuffledOrder(len(self.data.train), batch_texts=config.batch_texts, seed=config.seed)
        steps = order.steps_per_epoch * config.epochs
        weights = MasterWeights(self.module, dtype=torch.float32)
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

    def gradient_step(self, indices: np.ndarray, *, step: int) -> float:
        """Compute the gradient of one batch, leave it in the student, and return the loss."""
        torch.manual_seed(step_seed(self.config.seed, step))
        texts = [self.data.train.examples[index].text for index in indices]
        text, tokens = self.reader.outputs(self.module, texts, np.random.default_rng([self.config.seed, 3, step]))
        loss = torch.zeros((), device=self.device)
        if text is not None:
            loss = loss + (self._vector_loss(text, indices) if self.config.task == "embed" else self._label_loss(text, indices))
        if tokens is not None:
            loss = loss + self._tag_loss(tokens, indices)
        return backward(loss)()

    def _vector_loss(self, vectors: Tensor, indices: np.ndarray) -> Tensor:
        taught = self.data.train.taught.text
        assert taught is not None
        teacher = torch.from_numpy(taught[indices]).to(self.device)
        own = self.same[indices]
        is_same = torch.from_numpy(own[:, None] == own).to(self.device)
        loss = contrastive_distillation(vectors, teacher, temperature=self.config.temperature, is_same=is_same)
        if self.config.similarity_weight:
            loss = loss + self.config.similarity_weight * similarity_matching(vectors, teacher)
        if self.config.vector_weight:
            loss = loss + self.config.vector_weight * vector_matching(vectors, teacher)
        return loss

    def _label_loss(self, logits: Tensor, indices: np.ndarray) -> Tensor:
        taught = self.data.train.taught.text
        labels = torch.from_numpy(self.data.train.labels[indices]).to(self.device)
        return labelled_cross_entropy(logits, labels) if taught is None else self._mixed(logits, taught[indices], labels)

    def _tag_loss(self, logits: Tensor, indices: np.ndarray) -> Tensor:
        """Loss over all tokens that the student and the teacher have read, or that have a given tag."""
        train = self.data.train
        lengths = [min(len(tokens_of(train.examples[index].text)), logits.shape[1], self.config.max_tokens) for index in indices]
        flat = torch.cat([logits[row, :length] for row, length in enumerate(lengths)])
        given = [train.tags[index] for index in indices]
        numbers = [np.full(length, -1) if tags is None else tags[:length] for tags, length in zip(given, lengths, strict=True)]
        labels = torch.from_numpy(np.concatenate(numbers)).to(self.device)
        if train.taught.tokens is None:
            return labelled_cross_entropy(flat, labels)
        taught = np.concatenate([train.taught.tokens[index][:length] for index, length in zip(indices, lengths, strict=True)])
        return self._mixed(flat, taught, labels)

    def _mixed(self, logits: Tensor, taught: np.ndarray, labels: Tensor) -> Tensor:
        is_taught = np.isfinite(taught[:, 0])
        return mixed_cross_entropy(
            logits,
            torch.from_numpy(np.where(is_taught[:, None], taught, np.float32(0))).to(self.device),
            labels,
            scale=self.config.logit_scale,
            label_weight=self.config.label_weight,
            is_taught=torch.from_numpy(is_taught).to(self.device),
        )

    def _checkpoint_folder(self) -> Path | None:
        return None if self.output is None else checkpoint_folder(self.output)

    def _saving(self, steps: int) -> Saving | None:
        folder = self._checkpoint_folder()
        if folder is None:
            return None
        skipped = {"resume", "checkpoint_every_s", "device", "keep_weights"}
        identity = {name: value for name, value in asdict(self.config).items() if name not in skipped}
        identity |= {"teacher": self.teacher.name, "steps": steps, "texts": len(self.data.train)}
        # a model's outputs may differ in their last bits between runs, a matrix cannot
        identity["content of the texts"] = self.data.digest(with_teacher=not self.teacher.reads)
        recognised = getattr(self.teacher, "fingerprint", None)  # custom teachers may lack it
        identity["content of the teacher"] = recognised()[:12] if recognised else ""
        return Saving(folder, self.config.checkpoint_every_s, self.config.resume, identity)

    # ---- the folder

    def finish(self, trained: Trained, *, overwrite: bool) -> Distilled:
        """Save the student, load it from its folder, and measure the loaded one."""
        self.module.cpu()
        with _folder_for(self.output, overwrite=overwrite) as folder:
            write_student(self.module, folder / GRAPH_FILE, projection=self.reader.fingerprint)
            self.reader.save(folder)
            if self.config.keep_weights:
                save_weights(self.module, folder)
            record = self._record(trained)
            _write_json(folder / RECORD_FILE, record)
            student = Student.load(folder)
            student.name = str(self.output or "student")
            figures = self._figures(student)
            sizes: dict[str, int | None] = {}
            for _ in range(3):  # the record contains the total size, which includes the record
                record |= {"sizes": sizes, "figures": figures}
                _write_json(folder / RECORD_FILE, record)
                sizes = self._sizes(folder)
            (folder / "README.md").write_text(student_card(student.name, record), encoding="utf-8")
        student.record = record
        if (left := self._checkpoint_folder()) is not None:
            shutil.rmtree(left, ignore_errors=True)
        return Distilled(student, self.module, self.config, figures, sizes, self.data.counts, trained, self.output)

    def _record(self, trained: Trained) -> dict[str, Any]:
        return {
            "format": RECORD_FORMAT,
            "kind": "student",
            "method": "pQRNN" if self.config.student == "pqrnn" else "static token vectors",
            "task": self.config.task,
            "teacher": self.teacher.name,
            "dim": self.data.text_outputs,
            "normalise": self.config.task == "embed",  # training only uses directions, so lengths have no meaning
            "labels": list(self.data.labels),
            "tags": list(self.data.tags),
            "config": asdict(self.config),
            "counts": self.data.counts,
            "steps": trained.steps,
            "training_s": round(trained.seconds, 2),
            "final_loss": trained.losses[-1] if trained.losses else None,
            "seed": self.config.seed,
            "versions": versions(),
        }

    def _sizes(self, folder: Path) -> dict[str, int | None]:
        graph = (folder / GRAPH_FILE).stat().st_size
        others = (PROJECTION_FILE, TOKENIZER_FILE, RECORD_FILE)
        needed = sum((folder / name).stat().st_size for name in others if (folder / name).exists())
        parameters = sum(parameter.numel() for parameter in self.module.parameters())
        return {
            "parameters": parameters,
            "graph_bytes": graph,
            "student_bytes": graph + needed,
            "float32_bytes": 4 * parameters,
            "teacher_bytes": self.teacher.size_bytes,
        }

    def _figures(self, student: Student) -> dict[str, float]:
        held = self.data.held
        if len(held) < 2:
            return {}
        texts = [example.text for example in held.examples]
        if self.config.task == "embed":
            assert held.taught.text is not None
            return vector_figures(student.encode(texts), held.taught.text)
        return label_figures(student.predict(texts), self.data)


@contextmanager
def _folder_for(output: Path | None, *, overwrite: bool) -> Iterator[Path]:
    if output is not None:
        with whole_folder(output, overwrite=overwrite, was_free=True) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

"""Train a student of two to four megabytes to predict a large model's outputs.

Kaliamoorthi et al. 2021 (pQRNN). The student needs no vocabulary and no torch, and has eight-bit weights.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tain.batches.same_texts import id_keys, same_numbers
from tain.batches.tokenizing import tokenise_once
from tain.foundation.choices import Dtype
from tain.foundation.errors import UserError
from tain.foundation.locks import writes_output
from tain.foundation.machine import fastest_dtype, versions
from tain.foundation.progress import Progress
from tain.recipes.distil.config import NONE, DistilConfig, ResolvedDistilConfig
from tain.recipes.distil.data import DistillationData, check_texts, gather
from tain.recipes.distil.figures import label_figures, vector_figures
from tain.recipes.distil.model_card import student_card
from tain.recipes.distil.readers import Reader, encoder_of, reader_for
from tain.recipes.distil.start import refuse_other_shape, save_weights, start_shape
from tain.recipes.distil.teacher import Teacher, load_teacher
from tain.recipes.distil.trainer import DistilTrainer
from tain.recipes.shared.run import RunOutput, join_processes, run_device, settings_identity
from tain.recipes.shared.settings import resolve_config
from tain.students.student import GRAPH_FILE, PROJECTION_FILE, RECORD_FILE, RECORD_FORMAT, TOKENIZER_FILE, Student
from tain.students.torch.export import write_student
from tain.students.torch.qrnn import PQRNN
from tain.students.torch.static import StaticStudent
from tain.text.collections import each_item
from tain.text.records import Example
from tain.training import distributed
from tain.training.loop import Trained

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
    config: ResolvedDistilConfig
    figures: dict[str, float]
    sizes: dict[str, int | None]
    counts: dict[str, int]
    trained: Trained
    folder: Path | None

    def _repr_html_(self) -> str:
        """Figures and sizes, in a notebook."""
        from tain.recipes.distil.model_card import html_summary

        return html_summary(self)


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

    Examples:
        >>> import tain
        >>> texts = [f"text number {number} about the sea" for number in range(40)]
        >>> result = tain.distil("tain-mini", texts, "student", features=64, bottleneck=16, state=16, batch_texts=16, epochs=1, held_out=0)
        >>> tain.load("student").encode(["a text about the sea"]).shape
        (1, 384)
    """
    progress = Progress.resolve(progress)
    config = resolve_config(DistilConfig, "distil", config, settings)
    if config.init_from is not None:
        shape = start_shape(config.init_from)
        refuse_other_shape(config, shape)
        config = replace(config, **shape)
    config = config.resolved()
    named = [each for each in (teacher, classifier, config.init_from, config.token_vectors) if isinstance(each, str | Path)]
    place = RunOutput.single(output, overwrite=overwrite, resume=config.resume, inputs=named)
    if (str(teacher) if isinstance(teacher, str | Path) else teacher.name) == NONE:
        config.refuse_teachers_settings()
    examples = [text if isinstance(text, Example) else Example(text) for text in each_item(texts)]
    token_counts = check_texts(examples, config)
    progress = join_processes(config.device, progress)
    device = run_device(config.device)
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
        resolved = config
        config = replace(config, dtype=distributed.from_first(lambda: _dtype(resolved, device, place)))
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
    same = _same_texts(data, teacher, reader, progress) if config.task == "embed" else np.empty(0, dtype=np.int64)
    trainer = DistilTrainer(module, reader, data, same, config)
    identity = _identity(teacher, data, config, steps=trainer.steps)
    trained = trainer.train(progress=progress, saving=place.saving(0, identity=identity, every_s=config.checkpoint_every_s))
    return _finish(teacher, data, reader, module, config, trained, place)


def _dtype(config: DistilConfig, device: torch.device, output: RunOutput) -> Dtype:
    """Data type of matrix products: that of the resumed run, or else the faster one on this machine."""
    if begun_in := output.dtype_begun_in(key="dtype"):
        return "bfloat16" if begun_in == "bfloat16" else "float32"
    is_faster = config.student == "pqrnn" and fastest_dtype(device.type) == torch.bfloat16
    return "bfloat16" if is_faster else "float32"


def _same_texts(data: DistillationData, teacher: Teacher, reader: Reader, progress: Progress) -> np.ndarray:
    """Group texts that teacher or student cannot distinguish; texts of one group are not negatives of each other."""
    texts = [example.text for example in data.train.examples]
    embedder = teacher.embedder if teacher.reads else None
    if embedder is not None:
        keys = id_keys(tokenise_once(embedder.tokenizer, texts, max_tokens=embedder.max_tokens))
    else:
        taught = data.train.taught.text
        assert taught is not None
        keys = [np.ascontiguousarray(row).tobytes() for row in taught]
    numbers = same_numbers(keys, reader.input_keys(texts))
    if alike := int((np.bincount(numbers)[numbers] > 1).sum()):
        progress.warn(
            f"{alike:,} of {len(texts):,} texts have the same tokens as others for the teacher or the student, so they are not used as each other's negatives"
        )
    return numbers


def _identity(teacher: Teacher, data: DistillationData, config: ResolvedDistilConfig, *, steps: int) -> dict[str, Any]:
    """What must not change when a run is resumed."""
    recognised = getattr(teacher, "fingerprint", None)  # custom teachers may lack it
    return settings_identity(config, free={"resume", "checkpoint_every_s", "device", "keep_weights"}) | {
        "teacher": teacher.name,
        "steps": steps,
        "texts": len(data.train),
        # a model's outputs may differ in their last bits between runs, a matrix cannot
        "content of the texts": data.digest(with_teacher=not teacher.reads),
        "content of the teacher": recognised()[:12] if recognised else "",
    }


def _finish(
    teacher: Teacher,
    data: DistillationData,
    reader: Reader,
    module: PQRNN | StaticStudent,
    config: ResolvedDistilConfig,
    trained: Trained,
    output: RunOutput,
) -> Distilled:
    """Save the student, load it from its folder, and measure the loaded one; the first process writes, and the others read."""
    module.cpu()
    if output.folder is None or distributed.rank() == 0:
        student = _written(teacher, data, reader, module, config, trained, output)
        distributed.wait_for_all()
    else:
        distributed.wait_for_all()
        student = Student.load(output.folder)
    figures, sizes = (student.record[name] for name in ("figures", "sizes"))
    return Distilled(student, module, config, figures, sizes, data.counts, trained, output.folder)


def _written(
    teacher: Teacher,
    data: DistillationData,
    reader: Reader,
    module: PQRNN | StaticStudent,
    config: ResolvedDistilConfig,
    trained: Trained,
    output: RunOutput,
) -> Student:
    with output.writing() as folder:
        write_student(module, folder / GRAPH_FILE, projection=reader.fingerprint)
        reader.save(folder)
        if config.keep_weights:
            save_weights(module, folder)
        record = _record(teacher, data, config, trained)
        _write_json(folder / RECORD_FILE, record)
        student = Student.load(folder)
        student.name = str(output.folder or "student")
        figures = _figures(student, data, config)
        sizes: dict[str, int | None] = {}
        for _ in range(3):  # the record contains the total size, which includes the record
            record |= {"sizes": sizes, "figures": figures}
            _write_json(folder / RECORD_FILE, record)
            sizes = _sizes(folder, module, teacher)
        record |= {"sizes": sizes}
        (folder / "README.md").write_text(student_card(student.name, record), encoding="utf-8")
    student.record = record
    output.remove_checkpoints()
    return student


def _record(teacher: Teacher, data: DistillationData, config: ResolvedDistilConfig, trained: Trained) -> dict[str, Any]:
    return {
        "format": RECORD_FORMAT,
        "kind": "student",
        "method": "pQRNN" if config.student == "pqrnn" else "static token vectors",
        "task": config.task,
        "teacher": teacher.name,
        "dim": data.text_outputs,
        "normalise": config.task == "embed",  # training only uses directions, so lengths have no meaning
        "labels": list(data.labels),
        "tags": list(data.tags),
        "config": asdict(config),
        "counts": data.counts,
        "steps": trained.steps,
        "training_s": round(trained.seconds, 2),
        "final_loss": trained.losses[-1] if trained.losses else None,
        "seed": config.seed,
        "versions": versions(),
    }


def _sizes(folder: Path, module: PQRNN | StaticStudent, teacher: Teacher) -> dict[str, int | None]:
    graph = (folder / GRAPH_FILE).stat().st_size
    others = (PROJECTION_FILE, TOKENIZER_FILE, RECORD_FILE)
    needed = sum((folder / name).stat().st_size for name in others if (folder / name).exists())
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return {
        "parameters": parameters,
        "graph_bytes": graph,
        "student_bytes": graph + needed,
        "float32_bytes": 4 * parameters,
        "teacher_bytes": teacher.size_bytes,
    }


def _figures(student: Student, data: DistillationData, config: ResolvedDistilConfig) -> dict[str, float]:
    held = data.held
    if len(held) < 2:
        return {}
    texts = [example.text for example in held.examples]
    if config.task == "embed":
        assert held.taught.text is not None
        return vector_figures(student.encode(texts), held.taught.text)
    return label_figures(student.predict(texts), data)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

"""Load any saved model as what its folder holds; torch is imported only for models that need it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from tain.foundation.choices import Backend, ComputeDtype
from tain.foundation.errors import UserError

if TYPE_CHECKING:
    from tain.evaluation.tagging import LabelPredictor
    from tain.exported.encoder import ExportedEncoder
    from tain.exported.rankers import ExportedCross, ExportedDual
    from tain.models.embedder import Embedder
    from tain.models.rankers import Ranker
    from tain.students.student import Student

Kind = Literal["student", "encoder", "ranker", "labeller"]


def kind_of_model(name: str | Path) -> Kind:
    """What a folder, a hub name or ``tain-mini`` holds.

    Raises:
        UserError: There is no such model, or a file of it is damaged.
    """
    from tain.models.kinds import what_it_holds
    from tain.students.student import is_student

    return "student" if is_student(name) else what_it_holds(name)


def load(
    name: str | Path,
    *,
    device: str | None = None,
    dtype: ComputeDtype = "auto",
    backend: Backend = "auto",
    trust_remote_code: bool = False,
) -> Any:
    """Load a model as what it holds.

    Args:
        name: A folder, a hub name, or ``tain-mini``.
        device: Where it runs; students run on the CPU.
        dtype: What an encoder or ranker computes in.
        backend: Run exported graphs or torch, where a folder has both.
        trust_remote_code: Allow the model to run Python code from its folder.

    Raises:
        UserError: There is no such model, or it cannot be run.
    """
    kind = kind_of_model(name)
    if kind == "student":
        _refuse_torch(name, backend)
    if kind == "student" and device not in (None, "cpu"):
        raise UserError(f"device is {device!r}, but {str(name)!r} is a student, which runs on the CPU: leave it out")
    return _LOADERS[kind](name, device=device, dtype=dtype, backend=backend, trust_remote_code=trust_remote_code)


def load_encoder(name: str | Path, **options: Any) -> "Embedder | ExportedEncoder | Student":
    """Load a model that gives vectors: an encoder, an exported one, or a student.

    Args:
        name: As in ``load``.
        **options: As in ``load``, ``Embedder.load`` and ``ExportedEncoder.load``.

    Raises:
        UserError: It does not exist or gives no vectors, or a student or an exported folder is given options that it has no use for.
    """
    from tain.students.student import is_student

    if not is_student(name):
        return _encoder(name, **options)
    _refuse_torch(name, options.get("backend", "auto"))
    # a student always runs on the CPU in float32; these values are accepted because its teacher accepts them
    for option, own in (("pooling", None), ("max_tokens", None), ("device", "cpu"), ("dtype", "float32")):
        if options.get(option) not in (None, "auto", own):
            raise UserError(f"{option} is {options[option]!r}, but {str(name)!r} is a student, where it is fixed: leave it out")
    student = _student(name)
    if student.task != "embed":
        raise UserError(
            f"student {str(name)!r} was trained with --task {student.task}, so it has no vectors: use tain label, or distil one with --task embed"
        )
    return student


def load_ranker(name: str | Path, **options: Any) -> "Ranker | ExportedDual | ExportedCross":
    """Load a ranker, in torch or exported; any encoder is a bi-encoder with one tower.

    Args:
        name: As in ``load``.
        **options: As in ``load``.

    Raises:
        UserError: It does not exist, or cannot be run.
    """
    return _ranker(name, **options)


def load_labeller(name: str | Path, *, device: str | None = None, trust_remote_code: bool = False) -> "LabelPredictor":
    """Load a model that predicts labels: a student, a classifier or a tagger.

    Args:
        name: As in ``load``.
        device: As in ``load``.
        trust_remote_code: As in ``load``.

    Raises:
        UserError: It does not exist, or predicts no labels.
    """
    from tain.students.student import is_student

    if not is_student(name):
        return _labeller(name, device=device, trust_remote_code=trust_remote_code)
    student = _student(name)
    if student.task == "embed":
        raise UserError(
            f"student {str(name)!r} was trained with --task embed, so it predicts no labels: distil one with --task classify or tag"
        )
    return student


def _refuse_torch(name: str | Path, backend: Backend) -> None:
    """Refuse to run a student in torch."""
    if backend == "torch":
        raise UserError(f"backend is 'torch', but {str(name)!r} is a student, which runs in onnxruntime: leave it out")


def _student(name: str | Path, **_: Any) -> "Student":
    from tain.students.student import Student

    return Student.load(name)


def _encoder(name: str | Path, *, backend: Backend = "auto", **options: Any) -> "Embedder | ExportedEncoder":
    if _runs_exported(name, backend, options):
        from tain.exported.encoder import ExportedEncoder

        return ExportedEncoder.load(name, dtype=options.get("dtype", "auto"), max_tokens=options.get("max_tokens"))
    from tain.foundation.machine import keep_freed_memory
    from tain.models.embedder import Embedder

    keep_freed_memory()
    return Embedder.load(name, **options)


def _ranker(name: str | Path, *, backend: Backend = "auto", **options: Any) -> "Ranker | ExportedDual | ExportedCross":
    if _runs_exported(name, backend, options):
        from tain.exported.rankers import load_exported_ranker

        return load_exported_ranker(name, dtype=cast("Any", options.get("dtype", "auto")))
    from tain.foundation.machine import keep_freed_memory
    from tain.models.rankers import Ranker

    keep_freed_memory()
    return Ranker.load(name, **options)


def _labeller(name: str | Path, *, device: str | None = None, trust_remote_code: bool = False, **_: Any) -> "LabelPredictor":
    from tain.models.labeller import Labeller

    return Labeller.load(name, device=device, trust_remote_code=trust_remote_code)


def _runs_exported(name: str | Path, backend: Backend, options: dict[str, Any]) -> bool:
    from tain.exported.choosing import runs_exported

    return runs_exported(name, backend=backend, **{key: options[key] for key in ("device", "dtype", "pooling") if key in options})


_LOADERS: dict[Kind, Callable[..., Any]] = {"student": _student, "encoder": _encoder, "ranker": _ranker, "labeller": _labeller}

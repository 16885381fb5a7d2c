"""Which backend runs a model: exported graphs in onnxruntime, or torch."""

from importlib.util import find_spec
from pathlib import Path

from tain.exported.folder import exported_folder
from tain.foundation.choices import BUILT_IN, Backend
from tain.foundation.errors import UserError


def has_torch() -> bool:
    """Whether torch and transformers are installed; neither is imported."""
    return find_spec("torch") is not None and find_spec("transformers") is not None


def runs_exported(
    name: str | Path, *, backend: Backend = "auto", device: str | None = None, dtype: str = "auto", pooling: str | None = None
) -> bool:
    """Choose the backend of a model.

    ``auto`` takes the exported graph of a folder that has one. It takes torch for all other folders, for ``tain-mini`` where torch is
    installed, and for settings that only torch has: a GPU, bfloat16, another pooling.

    Args:
        name: The model.
        backend: What was asked for.
        device: Where it is to run.
        dtype: What it is to compute in; ``int8`` is a graph.
        pooling: A pooling other than the model's own.

    Raises:
        UserError: ``onnx`` or ``int8`` is asked for and there is no graph, or settings contradict each other.
    """
    only_torch = {
        "device": device if device not in (None, "cpu") else None,
        "dtype": dtype if dtype == "bfloat16" else None,
        "pooling": pooling,
    }
    given = [f"{option} is {value!r}" for option, value in only_torch.items() if value is not None]
    wants_graph = backend == "onnx" or dtype == "int8"
    if backend == "torch":
        if dtype == "int8":
            raise UserError("dtype is 'int8', which runs in onnxruntime, but backend is 'torch': give one or the other")
        return False
    if exported_folder(name) is None:
        if wants_graph:
            asked = "backend is 'onnx'" if backend == "onnx" else "dtype is 'int8'"
            raise UserError(f"{asked}, but model {str(name)!r} holds no exported graph: make one with tain export")
        return False
    if given and (wants_graph or not has_torch()):
        raise UserError(f"{given[0]}, which exported graphs do not take: leave it out, or use --backend torch")
    if wants_graph or not has_torch():
        return True
    return not given and str(name) not in BUILT_IN

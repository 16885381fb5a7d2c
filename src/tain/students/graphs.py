"""Run a student's graph with onnxruntime or with NumPy; both take and return the same arrays."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tain.foundation.errors import UserError
from tain.foundation.json_files import Field, checked_object
from tain.foundation.machine import thread_limit
from tain.students.onnx_file import read_onnx

_GRID = {"step": Field(kind=float), "zero": Field(kind=float), "text": Field(kind=bool), "tokens": Field(kind=bool)}
_STATIC_METADATA = {"student": Field(kind=str, among=("static",)), **_GRID}
_METADATA = {
    "student": Field(kind=str, among=("pqrnn",)),
    "features": Field(kind=int, least=1),
    "bottleneck": Field(kind=int, least=1),
    "layers": Field(kind=int, least=0),
    "state": Field(kind=int, least=1),
    "kernel_width": Field(kind=int, least=1),
    "directions": Field(kind=int, least=1, most=2),
    "outputs": Field(kind=dict, is_needed=False),
    **_GRID,
}
FORMAT = 3  # version of the graph's metadata and tensor names; see export.student

_UNIT_STEP, _UNIT_ZERO = np.float32(1 / 127), 128
_NEVER = np.float32(-1e6)


@runtime_checkable
class Graph(Protocol):
    """Protocol of both implementations."""

    metadata: dict[str, Any]

    def run(self, inputs: dict[str, np.ndarray], /) -> dict[str, np.ndarray]: ...


class OnnxGraph:
    """Student graph in onnxruntime, with eight-bit products.

    Args:
        path: The ONNX file.
        threads: Number of threads; default: as ``OMP_NUM_THREADS`` says, else the default of onnxruntime.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise UserError(
                "onnxruntime, which runs students, is not installed: pip install onnxruntime, or load the student with backend='numpy'"
            ) from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if (threads := threads or thread_limit()) is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise UserError(f"student file {str(path)!r} cannot be run ({' '.join(str(error).split())[:200]}): distil it again") from None
        self.metadata = _metadata(self._session.get_modelmeta().custom_metadata_map, path)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: dict[str, np.ndarray], /) -> dict[str, np.ndarray]:
        return dict(zip(self._outputs, map(np.asarray, self._session.run(None, inputs)), strict=True))


@dataclass(frozen=True)
class LayerPast:
    """State of a forward layer after reading some tokens.

    Attributes:
        window: Its last inputs, as many as a gate sees before the current one, float32 (kernel width - 1, texts, width).
        state: float32 (texts, state).
    """

    window: np.ndarray
    state: np.ndarray


@dataclass(frozen=True)
class Past:
    """State of a forward-only student after reading a prefix; immutable, so reading can continue from it several times.

    Attributes:
        layers: State of each layer.
        highest: Largest attention logit so far, float32 (texts, 1).
        weight: Sum of the attention weights divided by ``exp(highest)``, float32 (texts, 1).
        weighted: Weighted sum of the states with the same scaling, float32 (texts, state).
        words: Weighted sum of the bottleneck outputs with the same scaling, float32 (texts, bottleneck).
    """

    layers: tuple[LayerPast, ...]
    highest: np.ndarray
    weight: np.ndarray
    weighted: np.ndarray
    words: np.ndarray


class NumpyGraph:
    """Student graph in NumPy: the same integer products, computed in float32.

    Args:
        path: The ONNX file, read for its tensors.
    """

    def __init__(self, path: Path) -> None:
        self._stored, metadata = read_onnx(path)
        self.metadata = _metadata(metadata, path)
        self._weights = {
            name.removesuffix(".weight"): values.astype(np.float32) for name, values in self._stored.items() if name.endswith(".weight")
        }

    def run(self, inputs: dict[str, np.ndarray], /) -> dict[str, np.ndarray]:
        ids = inputs["ids"].T  # time first, the order of the recurrence
        is_token = (ids > 0)[..., None]
        if self.metadata["student"] == "static":
            return {"text": self._mean_of_table(ids, is_token)}
        codes = self.codes(inputs["rows"])
        values = words = np.where(is_token, self._steps(np.concatenate([inputs["known"], codes]))[ids], np.float32(0))
        for number in range(self.metadata["layers"]):
            nothing = self._nothing_read(values)
            values, _ = self._layer(f"layer{number}", values, is_token, nothing)
        outputs = {"codes": codes}
        if self.metadata["text"]:
            logits = np.where(is_token, self._product(values, "attention"), _NEVER)
            weights = np.exp(logits - logits.max(axis=0, initial=_NEVER))
            weights /= np.maximum(weights.sum(axis=0), np.float32(1e-30))
            outputs["text"] = self._text((weights * values * _UNIT_STEP).sum(axis=0), self._weighted_words(weights, words))
        if self.metadata["tokens"]:
            outputs["tokens"] = self._product(values, "tokens").swapaxes(0, 1)
        return outputs

    def nothing(self) -> Past:
        """Initial state of a forward-only student, before the first token."""
        state, none = self.metadata["state"], np.zeros((1, 1), np.float32)
        widths = [self._stored["bottleneck.shift"].size, *[state] * (self.metadata["layers"] - 1)]
        layers = tuple(self._nothing_read(np.empty((0, 1, width), np.float32)) for width in widths)
        return Past(layers, none + _NEVER, none, np.zeros((1, state), np.float32), np.zeros((1, widths[0]), np.float32))

    def read_on(self, past: Past, codes: np.ndarray) -> tuple[Past, np.ndarray | None]:
        """Continue reading one text with a forward-only student.

        Args:
            past: State so far.
            codes: Codes of the next tokens, uint8 (tokens, bottleneck), 1 or more.

        Returns:
            The new state, and the tokens' logits (tokens, labels) if the student tags.
        """
        is_token = np.ones((len(codes), 1, 1), dtype=bool)
        values = words = self._steps(codes)[:, None]
        layers = []
        for number, before in enumerate(past.layers):
            values, after = self._layer(f"layer{number}", values, is_token, before)
            layers.append(after)
        highest, weight, weighted, weighted_words = past.highest, past.weight, past.weighted, past.words
        if self.metadata["text"]:
            logits = self._product(values, "attention")
            highest = np.maximum(past.highest, logits.max(axis=0))
            older, weights = np.exp(past.highest - highest), np.exp(logits - highest)
            weight = past.weight * older + weights.sum(axis=0)
            weighted = past.weighted * older + (weights * values * _UNIT_STEP).sum(axis=0)
            weighted_words = past.words * older + self._weighted_words(weights, words)
        tags = self._product(values, "tokens")[:, 0] if self.metadata["tokens"] else None
        return Past(tuple(layers), highest, weight, weighted, weighted_words), tags

    def text_of(self, past: Past) -> np.ndarray:
        """Text output for the text read so far, (1, outputs)."""
        weight = np.maximum(past.weight, np.float32(1e-30))
        return self._text(past.weighted / weight, past.words / weight)

    def _weighted_words(self, weights: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Attention-weighted sum of bottleneck outputs over tokens, (texts, bottleneck); 0 if the graph does not use it."""
        if self.metadata.get("skip") is None:
            return np.zeros(words.shape[1:], np.float32)
        return (weights * words * np.float32(self.metadata["step"])).sum(axis=0)

    def _text(self, pooled: np.ndarray, words: np.ndarray) -> np.ndarray:
        text, skip = self._product(_rounded(pooled), "text"), self.metadata.get("skip")
        if skip is None:
            return text
        steps = np.clip(np.rint(words / np.float32(skip["step"])), -skip["zero"], 255 - skip["zero"])
        return text + self._product(steps, "skip")

    def _nothing_read(self, values: np.ndarray) -> LayerPast:
        _, texts, width = values.shape
        window = np.zeros((self.metadata["kernel_width"] - 1, texts, width), np.float32)
        return LayerPast(window, np.zeros((texts, self.metadata["state"]), np.float32))

    def _product(self, values: np.ndarray, name: str) -> np.ndarray:
        return values @ self._weights[name] * self._stored[f"{name}.scale"] + self._stored[f"{name}.shift"]

    def codes(self, rows: np.ndarray) -> np.ndarray:
        """Codes of tokens, uint8 (tokens, bottleneck), from their features as bytes plus 128, uint8 (tokens, features)."""
        positive = np.maximum(self._product(rows.astype(np.float32) - _UNIT_ZERO, "bottleneck"), 0)
        return np.clip(np.rint(positive / np.float32(self.metadata["step"])) + self.metadata["zero"], 0, 255).astype(np.uint8)

    def _steps(self, codes: np.ndarray) -> np.ndarray:
        """Codes as signed steps from zero, the form of all product inputs here."""
        return codes.astype(np.float32) - np.float32(self.metadata["zero"])

    def _layer(self, name: str, values: np.ndarray, is_token: np.ndarray, past: LayerPast) -> tuple[np.ndarray, LayerPast]:
        """Read tokens (tokens, texts, into); returns the states, and the state that a forward layer keeps for the next tokens."""
        state, width = self.metadata["state"], self.metadata["kernel_width"]
        parts, after = [], past
        for direction in range(self.metadata["directions"]):
            turn = slice(None, None, -1 if direction else 1)
            padded = np.concatenate([past.window, values[turn]])
            read = np.concatenate([padded[start : start + len(values)] for start in range(width)], axis=2)
            gates = self._product(read, f"{name}.direction{direction}")
            z, f, o = np.tanh(gates[..., :state]), _sigmoid(gates[..., state : 2 * state]), _sigmoid(gates[..., 2 * state :])
            there = is_token[turn]
            keep = np.where(there, f, np.float32(1))
            states, before = (1 - keep) * z, past.state
            for index in range(len(states)):
                states[index] += keep[index] * before
                before = states[index]
            after = LayerPast(padded[len(padded) - (width - 1) :], before)
            parts.append(np.where(there, o * states, np.float32(0))[turn])
        return _rounded(np.concatenate(parts, axis=2)), after

    def _mean_of_table(self, ids: np.ndarray, is_token: np.ndarray) -> np.ndarray:
        rows = (self._stored["table"][ids].astype(np.float32) - self.metadata["zero"]) * np.float32(self.metadata["step"])
        mean = (rows * is_token).sum(axis=0) / np.maximum(is_token.sum(axis=0), 1).astype(np.float32)
        return mean @ self._weights["text"] + self._stored["text.shift"]


def _rounded(values: np.ndarray) -> np.ndarray:
    """Round values between -1 and 1 to steps of their grid."""
    return np.clip(np.rint(values / _UNIT_STEP), -_UNIT_ZERO, 255 - _UNIT_ZERO)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return (1 + np.tanh(values / 2)) / 2  # never overflows, unlike 1 / (1 + exp(-x))


def _metadata(found: dict[str, str], path: Path) -> dict[str, Any]:
    if "tain" not in found:
        raise UserError(f"{str(path)!r} is an ONNX file, but not a tain student: give a folder that tain distil wrote")
    try:
        metadata = json.loads(found["tain"])
        version = metadata["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"student file {str(path)!r} is damaged: distil the student again") from None
    if version != FORMAT:
        raise UserError(
            f"student file {str(path)!r} has version {version}, but this tain reads {FORMAT}: use the tain that wrote it, or distil again"
        )
    is_static = isinstance(metadata, dict) and metadata.get("student") == "static"
    return checked_object(
        metadata,
        _STATIC_METADATA if is_static else _METADATA,
        damaged=f"student file {str(path)!r} is damaged",
        advice="distil the student again",
    )

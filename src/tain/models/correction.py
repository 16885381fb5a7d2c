"""Vector corrections: linear or per-language maps applied after pooling and before normalization.

A linear correction (whitening, removal of the strongest components, or any linear Dense layer of a sentence-transformers folder) is one
matrix and a bias; sentence-transformers applies it too. A per-language correction needs to know the language of each text, so only tain
applies it. Both are stored in the encoder's folder.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from safetensors.numpy import save_file

from tain.foundation.errors import ShapeError, UserError
from tain.foundation.tensors import read_arrays

LANGUAGE_FILE = "language_correction.safetensors"
_IDENTITY = "torch.nn.modules.linear.Identity"


@dataclass(frozen=True)
class LinearCorrection:
    """Linear correction: ``weight @ v + bias``.

    Attributes:
        weight: Float32 (new dim, dim).
        bias: Float32 (new dim,).
    """

    weight: np.ndarray
    bias: np.ndarray

    @property
    def dim(self) -> int:
        """Dimension of a corrected vector."""
        return len(self.weight)

    def apply(self, vectors: Float32[np.ndarray, "texts dim"], *, in_order: bool = False) -> Float32[np.ndarray, "texts newdim"]:
        """Correct vectors (texts, dim).

        Args:
            vectors: The vectors.
            in_order: Add in a fixed order, on any number of threads; slower.
        """
        return product(vectors, self.weight.T, in_order=in_order) + self.bias

    def save(self, folder: Path) -> None:
        """Write it into an existing folder as a sentence-transformers Dense layer, with the keys that all its versions read."""
        out_features, in_features = self.weight.shape
        config = {"in_features": in_features, "out_features": out_features, "bias": True, "activation_function": _IDENTITY}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(self.arrays(), folder / "model.safetensors")

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays of the correction."""
        return {"linear.weight": np.ascontiguousarray(self.weight), "linear.bias": np.ascontiguousarray(self.bias)}


@dataclass(frozen=True)
class LanguageCorrection:
    """Per-language removal of principal components: ``v - C C^T v`` with the directions C of the language.

    Yang et al. 2021 (CMLM), principal component removal: the directions are the first left singular vectors of one language's vectors, not centred.

    Attributes:
        directions: Float32 (components, dim) per language, orthonormal rows.
    """

    directions: Mapping[str, np.ndarray]

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(sorted(self.directions))

    def refuse_unknown(self, language: str | Sequence[str] | None, *, name: str) -> None:
        """Refuse a missing language, or one without directions, for the model ``name``.

        Raises:
            UserError: A language is missing or unknown.
        """
        known = ", ".join(self.languages)
        if language is None:
            raise UserError(
                f"model {name!r} corrects its vectors per language, but no language was given: give the language of the texts, one of {known}"
            )
        unknown = sorted({language} - set(self.directions) if isinstance(language, str) else set(language) - set(self.directions))
        if unknown:
            raise UserError(f"language is {unknown[0]!r}, for which model {name!r} has no correction: give one of {known}")

    def apply(
        self, vectors: Float32[np.ndarray, "texts dim"], language: str | Sequence[str], *, in_order: bool = False
    ) -> Float32[np.ndarray, "texts dim"]:
        """Correct vectors (texts, dim), with one language for all or one per vector; ``in_order`` as in ``LinearCorrection.apply``.

        Raises:
            ShapeError: The number of languages differs from the number of vectors.
        """
        if isinstance(language, str):
            return remove_directions(vectors, self.directions[language], in_order=in_order)
        if len(language) != len(vectors):
            raise ShapeError(f"each vector needs one language, got {len(vectors)} vectors and {len(language)} languages")
        corrected = vectors.copy()
        languages = np.array(language)
        for code in set(language):
            corrected[languages == code] = remove_directions(vectors[languages == code], self.directions[code], in_order=in_order)
        return corrected

    def save(self, folder: Path) -> None:
        """Write the directions into an existing folder."""
        save_file(self.arrays(), folder / LANGUAGE_FILE)

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays of the correction."""
        return {code: np.ascontiguousarray(rows) for code, rows in self.directions.items()}


def remove_directions(
    vectors: Float32[np.ndarray, "texts dim"], directions: Float32[np.ndarray, "components dim"], *, in_order: bool = False
) -> Float32[np.ndarray, "texts dim"]:
    """Subtract from each vector its projection onto ``directions`` (orthonormal rows)."""
    return vectors - product(product(vectors, directions.T, in_order=in_order), directions, in_order=in_order)


def product(left: Float32[np.ndarray, "rows inner"], right: Float32[np.ndarray, "inner columns"], *, in_order: bool) -> np.ndarray:
    """Matrix product; with ``in_order`` without the linear algebra library, whose order of additions depends on threads and shapes."""
    return np.einsum("ri,ic->rc", left, right) if in_order else left @ right


def is_linear(config: dict[str, Any]) -> bool:
    """Whether the ``config.json`` of a Dense layer describes a linear map."""
    return config.get("activation_function") == _IDENTITY and not config.get("use_residual")


def read_linear(config: dict[str, Any], weights: Path | None, *, name: str) -> LinearCorrection:
    """Read a Dense layer of a sentence-transformers folder.

    Args:
        config: Its ``config.json``.
        weights: Its ``model.safetensors``.
        name: The model's name, for messages.

    Raises:
        UserError: The layer is not linear, or its weights are not safetensors.
    """
    if not is_linear(config):
        raise UserError(
            f"model {name!r} has a Dense layer with the activation {config.get('activation_function')}, which tain does not support: only"
            " linear layers; use sentence-transformers for this model"
        )
    weight, bias = dense_weights(config, read_tensors(weights, "the weights of its Dense layer", name), name=name)
    return LinearCorrection(weight, np.zeros(len(weight), dtype=np.float32) if bias is None else bias)


def dense_weights(config: dict[str, Any], tensors: Mapping[str, np.ndarray], *, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The weight and bias of a Dense layer, checked as sentence-transformers checks them; None without bias.

    Args:
        config: Its ``config.json``.
        tensors: Its weights.
        name: The model's name, for messages.

    Raises:
        UserError: One is missing, or has another shape than the layer.
    """
    weight, bias = tensors.get("linear.weight"), tensors.get("linear.bias")
    if weight is None or weight.ndim != 2:
        raise UserError(f"model {name!r} has a Dense layer without linear.weight: save the model again")
    outs, ins = weight.shape
    for key, found in (("in_features", ins), ("out_features", outs)):
        if config.get(key, found) != found:
            raise UserError(
                f"model {name!r} has a Dense layer whose {key} is {config[key]}, but whose weights have {found}: save the model again"
            )
    has_bias = bool(config.get("bias", True))
    if (bias is not None) is not has_bias:
        told, kept = ("a", "none") if has_bias else ("no", "one")
        raise UserError(
            f"model {name!r} has a Dense layer with {told} bias in its config.json, but {kept} in its weights: save the model again"
        )
    if bias is not None and bias.shape != (outs,):
        raise UserError(
            f"model {name!r} has a Dense layer whose linear.bias has the shape {bias.shape}, not ({outs},): save the model again"
        )
    return weight, bias


def read_by_language(file: Path | None, *, name: str) -> LanguageCorrection:
    """Read a correction written by ``LanguageCorrection.save``.

    Raises:
        UserError: The file is missing or damaged.
    """
    return LanguageCorrection(read_tensors(file, "its per-language corrections", name))


def read_tensors(file: Path | None, what: str, name: str) -> dict[str, np.ndarray]:
    """Read a safetensors file of the model ``name`` in float32; ``what`` says in messages what it holds.

    Raises:
        UserError: It is missing or damaged, or has numbers that are not finite.
    """
    if file is None or not file.is_file():
        where = LANGUAGE_FILE if file is None else file.name
        raise UserError(f"model {name!r} keeps {what} in {where}, which is missing (pickled weights are not read): save the model again")
    try:
        found = read_arrays(file)
    except ValueError as error:
        raise UserError(f"model {name!r}: {file.name} with {what} is damaged ({error}): save the model again") from None
    with np.errstate(over="ignore"):
        found = {key: array.astype(np.float32) for key, array in found.items()}
    if bad := [key for key, array in found.items() if not np.isfinite(array).all()]:
        raise UserError(f"model {name!r}: {bad[0]} in {file.name} has numbers that are not finite: save the model again")
    return found

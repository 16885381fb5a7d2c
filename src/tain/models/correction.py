"""What is done to an encoder's vectors after pooling and before they are brought to length 1; stored in the encoder's folder.

A linear correction (whitening, removal of the strongest components, or any linear layer of a sentence-transformers folder) is one matrix
and a shift, and sentence-transformers runs it too. A correction by language is not: it has to be told the language of each text.
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
    """v becomes weight @ v + bias.

    Attributes:
        weight: Float32 (new dim, dim).
        bias: Float32 (new dim,).
    """

    weight: np.ndarray
    bias: np.ndarray

    @property
    def dim(self) -> int:
        """Numbers of a corrected vector."""
        return len(self.weight)

    def apply(self, vectors: Float32[np.ndarray, "texts dim"]) -> Float32[np.ndarray, "texts newdim"]:
        """Correct vectors (texts, dim)."""
        return vectors @ self.weight.T + self.bias

    def save(self, folder: Path) -> None:
        """Write it into an existing folder as sentence-transformers' Dense layer, in the keys that all its versions read."""
        out_features, in_features = self.weight.shape
        config = {"in_features": in_features, "out_features": out_features, "bias": True, "activation_function": _IDENTITY}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(self.arrays(), folder / "model.safetensors")

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything it consists of."""
        return {"linear.weight": np.ascontiguousarray(self.weight), "linear.bias": np.ascontiguousarray(self.bias)}


@dataclass(frozen=True)
class LanguageCorrection:
    """v becomes v - C C^T v with the directions C of its language, and keeps its length otherwise.

    Yang et al. 2021 (CMLM), principal component removal: the directions are the first left singular vectors of one language's vectors, not centred.

    Attributes:
        directions: For each language float32 (components, dim), rows of length 1 at right angles.
    """

    directions: Mapping[str, np.ndarray]

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(sorted(self.directions))

    def refuse_unknown(self, language: str | Sequence[str] | None, *, name: str) -> None:
        """Refuse a language without directions, or none at all, for the model ``name``.

        Raises:
            UserError: There is one.
        """
        known = ", ".join(self.languages)
        if language is None:
            raise UserError(f"model {name!r} corrects its vectors by language and was told none: give the texts' language, one of {known}")
        unknown = sorted({language} - set(self.directions) if isinstance(language, str) else set(language) - set(self.directions))
        if unknown:
            raise UserError(f"language is {unknown[0]!r}, for which model {name!r} has no correction: give one of {known}")

    def apply(self, vectors: Float32[np.ndarray, "texts dim"], language: str | Sequence[str]) -> Float32[np.ndarray, "texts dim"]:
        """Correct vectors (texts, dim), all of one language or each of its own.

        Raises:
            ShapeError: There is not one language a vector.
        """
        if isinstance(language, str):
            return remove_directions(vectors, self.directions[language])
        if len(language) != len(vectors):
            raise ShapeError(f"each vector needs one language, got {len(vectors)} vectors and {len(language)} languages")
        corrected = vectors.copy()
        languages = np.array(language)
        for code in set(language):
            corrected[languages == code] = remove_directions(vectors[languages == code], self.directions[code])
        return corrected

    def save(self, folder: Path) -> None:
        """Write the directions into an existing folder."""
        save_file(self.arrays(), folder / LANGUAGE_FILE)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything it consists of."""
        return {code: np.ascontiguousarray(rows) for code, rows in self.directions.items()}


def remove_directions(
    vectors: Float32[np.ndarray, "texts dim"], directions: Float32[np.ndarray, "components dim"]
) -> Float32[np.ndarray, "texts dim"]:
    """Take from each vector its part along ``directions``, rows of length 1 at right angles."""
    return vectors - vectors @ directions.T @ directions


def read_linear(config: dict[str, Any], weights: Path | None, *, name: str) -> LinearCorrection:
    """Read a Dense layer of a sentence-transformers folder.

    Args:
        config: Its ``config.json``.
        weights: Its ``model.safetensors``.
        name: The model's name, for messages.

    Raises:
        UserError: It is no plain linear layer, or its weights are no safetensors.
    """
    if config.get("activation_function") != _IDENTITY or config.get("use_residual"):
        raise UserError(
            f"model {name!r} has a Dense layer with the activation {config.get('activation_function')}, which tain does not run: it runs"
            " linear ones; use sentence-transformers for this model"
        )
    tensors = _read_tensors(weights, "the weights of its Dense layer", name)
    if "linear.weight" not in tensors or tensors["linear.weight"].ndim != 2:
        raise UserError(f"model {name!r} has a Dense layer without linear.weight: save the model again")
    weight = tensors["linear.weight"]
    return LinearCorrection(weight, tensors.get("linear.bias", np.zeros(len(weight), dtype=np.float32)))


def read_by_language(file: Path | None, *, name: str) -> LanguageCorrection:
    """Read what ``LanguageCorrection.save`` wrote.

    Raises:
        UserError: The file is missing or damaged.
    """
    return LanguageCorrection(_read_tensors(file, "its corrections by language", name))


def _read_tensors(file: Path | None, what: str, name: str) -> dict[str, np.ndarray]:
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

"""scikit-learn transformer that turns texts into vectors, and mirrors the model on them when it is fitted."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from tain.foundation.errors import UserError
from tain.foundation.files import whole_folder
from tain.text.collections import list_texts

try:
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise ImportError('tain.sklearn needs scikit-learn, which is not installed: run pip install "scikit-learn"') from error


class TainEncoder(TransformerMixin, BaseEstimator):
    """Encode texts; ``fit`` mirrors the model on them, without labels.

    Works in pipelines and in grid search over any of its parameters. In a cross-validation every fold mirrors the model on its own
    training texts. A fitted encoder is not pickled with its weights: save it with ``save`` and give the folder as ``model``.

    Args:
        model: A folder, a hub name, or ``tain-mini``.
        recipe: Recipe of ``tain.mirror``: ``default``, ``fast``, ``best``, ``paper``; or ``None``, which uses the model as it is.
        level: Kind of text: ``word``, ``phrase`` or ``sentence``.
        normalize: Scale vectors to length 1.
        settings: Further fields of ``MirrorConfig`` by name.
        random_state: Seed of the training.
        device: ``cpu``, ``cuda`` or ``cuda:N``; default: a GPU if there is one.
        dtype: As in ``tain.load``.

    Attributes:
        encoder_: The encoder, after ``fit``.
        mirrored_: Result of ``tain.mirror``; None without a recipe.
        n_features_out_: Dimension of the vectors.
    """

    def __init__(
        self,
        model: str = "tain-mini",
        *,
        recipe: str | None = None,
        level: str = "sentence",
        normalize: bool = True,
        settings: dict[str, Any] | None = None,
        random_state: int = 13,
        device: str | None = None,
        dtype: str = "auto",
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.level = level
        self.normalize = normalize
        self.settings = settings
        self.random_state = random_state
        self.device = device
        self.dtype = dtype

    def fit(self, X: Iterable[str], y: Any = None) -> "TainEncoder":  # noqa: N803 - scikit-learn's name
        """Mirror the model on texts, or only load it without a recipe.

        Args:
            X: Texts.
            y: Ignored: no labels are used.

        Raises:
            UserError: The model, the texts or a setting is invalid.
        """
        if not isinstance(self.model, str | Path):
            raise UserError(f"model is a {type(self.model).__name__}: give a model folder, a hub name, or tain-mini")
        if not isinstance(self.settings, dict | None):
            raise UserError(f"settings are a {type(self.settings).__name__}: give a dict of fields of MirrorConfig by name")
        texts = list_texts(X)
        self.mirrored_ = None
        if self.recipe is None:
            from tain.api import load

            self.encoder_ = load(self.model, device=self.device, dtype=self.dtype)  # type: ignore[arg-type]
        else:
            from tain.recipes.mirror.recipe import mirror

            chosen = {"recipe": self.recipe, "level": self.level, "seed": self.random_state, "device": self.device, "dtype": self.dtype}
            self.mirrored_ = mirror(self.model, texts, progress=False, **{**chosen, **(self.settings or {})})
            self.encoder_ = self.mirrored_.embedder
        self.n_features_out_ = int(self.encoder_.dim)
        return self

    def transform(self, X: Iterable[str]) -> Float32[np.ndarray, "texts dim"]:  # noqa: N803
        """Encode texts: float32 (texts, dim).

        Raises:
            NotFittedError: ``fit`` was not called.
            UserError: Something is not text.
        """
        check_is_fitted(self, "encoder_")
        return self.encoder_.encode(list_texts(X), normalize=self.normalize)

    def fit_transform(self, X: Iterable[str], y: Any = None, **params: Any) -> Any:  # noqa: N803
        """``fit``, then ``transform`` of the same texts; a generator is read once."""
        return super().fit_transform(list_texts(X) if isinstance(X, Iterator) else X, y, **params)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the numbers of a vector: ``tainencoder0`` and so on."""
        check_is_fitted(self, "encoder_")
        return np.array([f"{type(self).__name__.lower()}{number}" for number in range(self.n_features_out_)], dtype=object)

    def save(self, folder: str | Path) -> None:
        """Save the mirrored encoder as a sentence-transformers folder.

        Raises:
            UserError: Nothing was trained, or the folder exists or cannot be written.
        """
        check_is_fitted(self, "encoder_")
        if self.mirrored_ is None:
            raise UserError(f"recipe is None, so nothing was trained: use the model's own folder, {self.model!r}")
        record = {**getattr(self.encoder_, "record", {}), "kind": "encoder", "base_model": self.model, "method": f"recipe {self.recipe}"}
        with whole_folder(Path(folder)) as path:
            self.encoder_.save(path, record=record, card=f"# {Path(folder).name}\n\nMade from `{self.model}` by tain.sklearn.\n")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        tags.requires_fit = True
        return tags

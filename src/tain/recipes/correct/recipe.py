"""Correct the vectors of a trained encoder: per language, by whitening, or by removing the strongest components.

Per language: principal component removal, Yang et al. 2021 (CMLM). Vectors of one language share directions that only identify the
language. Without them, a sentence is closer to its translation than to unrelated sentences of its own language. Nothing is trained, and
no labels or translations are used.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tain.foundation.errors import UserError
from tain.foundation.files import refuse_existing, whole_folder
from tain.foundation.progress import Progress
from tain.models.correction import LanguageCorrection
from tain.models.correction_fitting import (
    LanguageFit,
    LinearFit,
    Moments,
    fit_language,
    fit_top_removal,
    fit_whitening,
    refuse_components,
    refuse_dimensions,
)
from tain.models.embedder import Embedder
from tain.models.unknown_tokens import check_known
from tain.recipes.correct.config import CorrectConfig, language_code
from tain.recipes.correct.model_card import correction_card
from tain.recipes.shared.run import run_device
from tain.recipes.shared.settings import resolve_config
from tain.text.collections import each_text

_WINDOW_TEXTS = 8192  # texts encoded at a time


@dataclass(frozen=True)
class Corrected:
    """A corrected encoder and the figures of its correction.

    Attributes:
        embedder: The encoder with its correction.
        config: The settings.
        languages: The fit of each language, for the method ``languages``; else empty.
        linear: The fit of the other methods.
        mean_cosines: For each pair of language codes, the cosine of their mean vectors before and after.
        truncated: Texts that were cut at the length limit.
        folder: Where it was saved, if it was.
    """

    embedder: Embedder
    config: CorrectConfig
    languages: tuple[LanguageFit, ...]
    linear: LinearFit | None
    mean_cosines: dict[tuple[str, str], tuple[float, float]]
    truncated: int
    folder: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give settings and figures for JSON, without the matrices."""
        record: dict[str, Any] = {"method": self.config.method, "components": self.config.components, "truncated": self.truncated}
        if self.linear is not None:
            record |= {name: value for name, value in asdict(self.linear).items() if name != "correction"}
            record["dim"] = self.embedder.dim
        else:
            hidden = ("directions", "mean", "language")
            record["languages"] = {
                fit.language: {name: value for name, value in asdict(fit).items() if name not in hidden} for fit in self.languages
            }
            record["mean_cosines"] = {
                f"{left}-{right}": {"before": before, "after": after} for (left, right), (before, after) in self.mean_cosines.items()
            }
        return record


def correct(
    model: str | Path,
    texts: Iterable[str] | Mapping[str, Iterable[str]],
    output: str | Path | None = None,
    *,
    config: CorrectConfig | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    overwrite: bool = False,
    progress: Progress | bool | None = None,
    **settings: Any,
) -> Corrected:
    """Fit a correction to an encoder's vectors and return the encoder with it.

    Args:
        model: A folder, a hub name, or ``tain-mini``.
        texts: For the method ``languages``, a mapping from language code to texts; else texts. They are streamed, so there is no limit.
        output: Folder to save the encoder in; None keeps it in memory only.
        config: All settings at once; or give settings by keyword.
        device: ``cpu``, ``cuda`` or ``cuda:N``; default: a GPU if there is one.
        trust_remote_code: Allow Python code from the model's folder.
        overwrite: Replace ``output`` if it exists.
        progress: ``False`` shows nothing; ``None`` (default) shows a bar on a terminal or in a notebook; or a ``Progress``.
        **settings: Fields of ``CorrectConfig``.

    Raises:
        UserError: Settings, texts or model are invalid, or the model already has a correction.

    Examples:
        >>> import tain
        >>> texts = [f"text number {number} about the sea" for number in range(40)]
        >>> result = tain.correct("tain-mini", texts, "corrected", method="remove-top", components=1)
        >>> tain.load("corrected").encode("a text").shape
        (384,)
    """
    progress = Progress.resolve(progress)
    config = resolve_config(CorrectConfig, "correct", config, settings)
    by_language = _by_language(texts, config)
    if output is not None:
        refuse_existing(Path(output), overwrite=overwrite, is_folder=True, inputs=[model])
    run_device(device)
    embedder = Embedder.load(model, device=device, dtype="float32", trust_remote_code=trust_remote_code)
    if embedder.kept_dims is not None:
        raise UserError(
            f"model {str(model)!r} keeps the first {embedder.kept_dims} numbers of its vectors (truncate_dim): set it to null, and give dimensions"
        )
    if embedder.correction is not None:
        raise UserError(f"model {str(model)!r} already has a correction: give the encoder that it was made from")
    if embedder.pooling == "mean-with-padding" and output is not None:
        raise UserError("pooling is mean-with-padding, which saved encoders do not support: save it with cls or mean first")
    refuse_dimensions(config.dimensions, embedder.dim)  # before the encoding, which may take an hour
    if config.method != "whiten":
        refuse_components(config.components, embedder.dim, option="components" if config.method == "languages" else "remove_top")
    moments, truncated = {}, 0
    for language, stream in by_language.items():
        moments[language], cut = _moments(embedder, stream, language, config, progress)
        truncated += cut
    if truncated:
        progress.warn(f"texts longer than {embedder.max_tokens} tokens were cut: {truncated:,}")
    result = _fitted(embedder, moments, config, truncated)
    return result if output is None else _saved(result, str(model), Path(output), overwrite=overwrite)


def _by_language(texts: Iterable[str] | Mapping[str, Iterable[str]], config: CorrectConfig) -> dict[str, Iterator[str]]:
    if config.method != "languages":
        if isinstance(texts, Mapping):
            raise UserError(
                f"texts are given per language, but {config.method} does not distinguish languages: give one list, or the method languages"
            )
        return {"": each_text(texts)}
    if not isinstance(texts, Mapping) or not texts:
        raise UserError('the method languages needs texts per language: give {"en": [...], "de": [...]}')
    coded = {language_code(code): each_text(stream) for code, stream in texts.items()}
    if len(coded) < len(texts):
        raise UserError(f"languages are {', '.join(texts)}, of which two are the same: give each language once")
    return coded


def _moments(embedder: Embedder, texts: Iterable[str], language: str, config: CorrectConfig, progress: Progress) -> tuple[Moments, int]:
    """Accumulate moments of texts, window by window, from vectors that are not normalised."""
    moments, truncated = Moments(embedder.dim), 0
    stream = iter(texts if config.max_texts is None else islice(texts, config.max_texts))
    with progress.task(f"encode {language}".strip(), config.max_texts) as task:
        while window := list(islice(stream, _WINDOW_TEXTS)):
            if not moments.count:
                check_known(embedder, window, progress=progress, is_training=True)
            moments.add(embedder.encode(window, batch_tokens=config.batch_tokens, normalize=False))
            truncated += embedder.truncated
            task.advance(len(window))
    return moments, truncated


def _fitted(embedder: Embedder, moments: dict[str, Moments], config: CorrectConfig, truncated: int) -> Corrected:
    if config.method == "languages":
        fits = tuple(fit_language(found, language=language, components=config.components) for language, found in moments.items())
        embedder.correction = LanguageCorrection({fit.language: fit.directions for fit in fits})
        return Corrected(embedder, config, fits, None, _mean_cosines(fits), truncated)
    (found,) = moments.values()
    if config.method == "whiten":
        fit = fit_whitening(found, dimensions=config.dimensions, power=1.0 if config.power is None else config.power)
    else:
        fit = fit_top_removal(found, components=config.components)
    embedder.correction = fit.correction
    return Corrected(embedder, config, (), fit, {}, truncated)


def _mean_cosines(fits: tuple[LanguageFit, ...]) -> dict[tuple[str, str], tuple[float, float]]:
    found = {}
    for index, left in enumerate(fits):
        for right in fits[index + 1 :]:
            before = _cosine(left.mean, right.mean)
            found[left.language, right.language] = before, _cosine(_without(left), _without(right))
    return found


def _without(fit: LanguageFit) -> np.ndarray:
    return fit.mean - fit.directions.T @ (fit.directions @ fit.mean)


def _cosine(left: np.ndarray, right: np.ndarray) -> float:
    lengths = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / lengths if lengths > 0 else 0.0


def _saved(result: Corrected, model: str, output: Path, *, overwrite: bool) -> Corrected:
    record = {**result.embedder.record, "kind": "encoder", "corrected_from": model, "correction": result.to_dict()}
    with whole_folder(output, overwrite=overwrite) as folder:
        result.embedder.save(folder, record=record, card=correction_card(output.name, record))
    return replace(result, folder=output)

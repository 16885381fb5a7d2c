"""Suite of masked language models: their loss on held-out text."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tain.evaluation.suites.separate import Report, SeparateOptions, SeparateSuite
from tain.foundation.errors import UserError
from tain.foundation.progress import Progress


def _check(options: SeparateOptions) -> None:
    if options.chart is not None:
        raise UserError("suite mlm draws no chart: leave --chart out")
    if (options.texts is None) == (options.data is None):
        raise UserError(
            "suite mlm needs texts: give a file with --texts, or a file or a folder with files named valid_* with --data (not both)"
        )


def _load(options: SeparateOptions) -> list[str | Path]:
    if options.data is None:
        return [options.texts or ""]
    return list(validation_files(options.data)) if options.data.is_dir() else [options.data]


def _measure(models: Iterable[Any], sources: list[str | Path], options: SeparateOptions, progress: Progress) -> Report:
    from tain.evaluation.mlm import masked_losses  # needs torch

    return masked_losses(
        models, sources, block_tokens=options.block_tokens, resamples=options.resamples, seed=options.seed, progress=progress
    )


def validation_files(folder: Path) -> list[Path]:
    """Files of a folder with names that begin with ``valid_``.

    Raises:
        UserError: There are none.
    """
    files = sorted(folder.glob("valid_*"))
    if not files:
        raise UserError(f"data is {str(folder)!r}, which has no file named valid_*: name one file, or a folder with such files")
    return files


MLM = SeparateSuite(
    name="mlm",
    title="Masked language modelling",
    load=_load,
    measure=_measure,
    counted="tokens",
    models="masked language models",
    flags=frozenset({"texts", "data", "chart", "max_tokens"}),
    dtypes=("auto", "float32", "bfloat16"),
    check=_check,
)

"""``tain correct``: fit a linear correction to an encoder's vectors."""

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tain.cli import flags
from tain.cli.sources import TextSources
from tain.foundation.errors import UserError
from tain.recipes.correct.config import CorrectConfig, language_code

if TYPE_CHECKING:
    from tain.recipes.correct.recipe import Corrected


def correct(
    model: str,
    texts: TextSources | None = None,
    /,
    *,
    output: Annotated[flags.Output, Parameter(help="folder for the encoder with its correction")],
    language: Annotated[
        tuple[str, ...],
        Parameter(help="CODE=FILE: texts of one language; repeat it for each", negative=(), show_default=False),
    ] = (),
    whiten: Annotated[bool, Parameter(help="fit a whitening to TEXTS", negative=())] = False,
    remove_top: Annotated[int | None, Parameter(help="remove this many of the strongest components of TEXTS")] = None,
    components: Annotated[int | None, Parameter(help="directions removed per language; default: 1, as in the paper")] = None,
    dimensions: Annotated[int | None, Parameter(help="number of strongest components a whitening keeps; default: all")] = None,
    power: Annotated[
        float | None,
        Parameter(
            help="exponent of a whitening: 1 gives every component variance 1, 0.5 goes half of the way; default: 1, as in the papers"
        ),
    ] = None,
    max_texts: Annotated[int | None, Parameter(help="maximum texts read per source; default: all; the paper uses 10000")] = None,
    column: Annotated[str | None, Parameter(help="column of the texts, if the sources are tables")] = None,
    batch_tokens: Annotated[int | None, Parameter(help="tokens encoded at a time; changes speed and memory only")] = None,
    device: flags.Device = None,
    trust_remote_code: flags.TrustRemoteCode = False,
    overwrite: flags.Overwrite = False,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:
    """Remove the components that all vectors (or all vectors of one language) share. No labels, no training.

    tain correct tain-mini sentences.txt -o corrected --remove-top 1

    Per language: tain correct MODEL -o DIR --language en=en.txt --language de=de.txt. Vectors of one language often share a direction
    that identifies the language. Removing it moves translations closer together, but each later call must name the language of its
    texts. It can lower quality within one language: compare with tain evaluate.

    Parameters
    ----------
    model
        a folder, a hub name, or tain-mini (built in)
    texts
        for --whiten and --remove-top: txt (one text per line), csv, tsv, jsonl or parquet, also .gz and .xz; - reads standard input
    """
    config = _config(
        texts, language, whiten=whiten, remove_top=remove_top, components=components, dimensions=dimensions, power=power,
        max_texts=max_texts, batch_tokens=batch_tokens,
    )  # fmt: skip
    from tain.foundation.files import refuse_existing
    from tain.foundation.progress import Progress
    from tain.models.saved import locate

    by_language = _by_language(language)
    refuse_existing(output, overwrite=overwrite, inputs=[model, *(texts or ()), *by_language.values()])
    locate(model)
    given = _read(texts or [], by_language, column)
    progress = Progress.for_terminal(json=json, quiet=quiet)
    from tain.recipes.correct.recipe import correct as run

    result = run(
        model, given, output, config=config, device=device, trust_remote_code=trust_remote_code, overwrite=overwrite, progress=progress
    )
    _show(result, as_json=json)


def _config(
    texts: list[str] | None, language: tuple[str, ...], *, whiten: bool, remove_top: int | None, components: int | None, **settings: Any
) -> CorrectConfig:
    chosen = [name for name, given in (("--language", language), ("--whiten", whiten), ("--remove-top", remove_top is not None)) if given]
    if len(chosen) != 1:
        was = f"{' and '.join(chosen)} are given" if chosen else "no correction is named"
        raise UserError(
            f"{was}, but exactly one is fitted: give --language CODE=FILE for each language, or TEXTS with --whiten or --remove-top N"
        )
    if language and texts:
        raise UserError(f"texts are {', '.join(texts)} together with --language: name the language of every file, --language en={texts[0]}")
    if not language and not texts:
        raise UserError(f"{chosen[0]} needs texts to fit on: name a file of texts after the model")
    if components is not None and not language:
        instead = f"give --remove-top {components}" if components > 0 and not whiten else "leave it out"
        raise UserError(f"components is {components}, which only applies to --language: {instead}")
    if remove_top is not None and remove_top < 1:
        raise UserError(f"remove_top is {remove_top}: give 1 or more")
    method = "languages" if language else "whiten" if whiten else "remove-top"
    removed = components if remove_top is None else remove_top
    return CorrectConfig(method=method, components=1 if removed is None else removed, **settings)


def _by_language(given: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in given:
        code, mark, source = entry.partition("=")
        if not mark or not source:
            raise UserError(f"language is {entry!r}, which names no file: give CODE=FILE, such as en=english.txt")
        code = language_code(code)
        if code in found:
            raise UserError(f"language {code!r} is given twice, as {found[code]} and {source}: give one file per language")
        found[code] = source
    return found


def _read(texts: list[str], languages: dict[str, str], column: str | None) -> Any:
    """Open every source, so that an unreadable one is reported before a model is loaded."""
    from itertools import chain

    from tain.text.readers import read_texts

    if languages:
        return {code: read_texts(source, column=column) for code, source in languages.items()}
    return chain.from_iterable([read_texts(source, column=column) for source in texts])


def _show(result: "Corrected", *, as_json: bool) -> None:
    """Print what was removed, or everything as one JSON object."""
    if as_json:
        import json

        print(json.dumps({"folder": str(result.folder), **result.to_dict()}, ensure_ascii=False))
        return
    from rich.console import Console

    console = Console(highlight=False)
    if result.linear is not None:
        fit = result.linear
        console.print(
            f"{fit.texts:,} texts; {100 * fit.removed_share:.1f}% of the variance removed, {result.embedder.dim} dimensions;"
            f" length of the mean vector relative to the vectors: {fit.mean_before:.2f} before, 0 now"
        )
    else:
        _show_languages(console, result)
    console.print(f"saved in {result.folder}", soft_wrap=True, highlight=False, markup=False)


def _show_languages(console: Any, result: "Corrected") -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("language", "texts", "removed", "cosine to mean", "mean before", "mean after"):
        table.add_column(title, justify="left" if title == "language" else "right")
    for fit in result.languages:
        row = (f"{fit.texts:,}", f"{100 * fit.removed_share:.1f}%", f"{fit.cosine_to_mean:.3f}", f"{fit.mean_before:.3f}")
        table.add_row(fit.language, *row, f"{fit.mean_after:.3f}")
    console.print(table)
    for (left, right), (before, after) in result.mean_cosines.items():
        console.print(f"cosine of the means of {left} and {right}: {before:.3f} before, {after:.3f} after")
    console.print("Removed: share of the vectors' squared length. Mean: length of the mean vector relative to the vectors.")
    console.print("Give --language with this encoder from now on; sentence-transformers does not apply the correction.")

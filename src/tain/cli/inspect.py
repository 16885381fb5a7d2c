"""``tain inspect``: decompose a model's token vectors and explain why two texts are similar."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from tain.cli import flags
from tain.cli.objects import as_object
from tain.foundation.errors import UserError

if TYPE_CHECKING:
    from tain.foundation.progress import Progress
    from tain.inspection.results import Comparison, Inspection
    from tain.text.readers import Stream

Method = Literal["Attn-W", "Attn-N", "AttnRes-W", "AttnRes-N", "AttnResLn-N", "Layer-N"]


def inspect(
    model: str,
    given: list[str] | None = None,
    /,
    *,
    texts: Annotated[
        str | None,
        Parameter(
            help="read texts from a file instead: txt (one text per line), csv, tsv, jsonl or parquet, also .gz and .xz; - reads standard"
            " input; hf:NAME is a hub data set",
            allow_leading_hyphen=True,
        ),
    ] = None,
    column: Annotated[str | None, Parameter(help="column of the texts, if --texts is a table")] = None,
    against: Annotated[
        str | None, Parameter(help="a second model to compare on the same texts, for example before and after mirroring")
    ] = None,
    shown: Annotated[int, Parameter(help="number of texts shown token by token; more needs more memory; 0 for none")] = 4,
    page: Annotated[Path | None, Parameter(help="write an interactive HTML page; one file, under 2 MB, no network")] = None,
    svg: Annotated[Path | None, Parameter(help="draw the mixing ratios of --method into this SVG file")] = None,
    csv: Annotated[Path | None, Parameter(help="write every shown token's ratios to this CSV file")] = None,
    output: flags.FiguresOutput = None,
    matrices: Annotated[
        bool, Parameter(help="also write the weights and norms of the shown texts to the JSON; large for long texts", negative=())
    ] = False,
    method: Annotated[Method, Parameter(help="which ratios the SVG file shows")] = "AttnResLn-N",
    whole_layer: Annotated[
        bool, Parameter(help="also decompose whole layers, including the feed-forward part (Layer-N); slow for long texts", negative=())
    ] = False,
    masking_rate: Annotated[
        float, Parameter(help="share of tokens replaced by the mask token for the figures over all texts; the paper uses 0.12")
    ] = 0.0,
    max_tokens: Annotated[
        int | None, Parameter(help="cut texts at this many tokens; default: the model's limit (512 if it has none); cut texts are counted")
    ] = None,
    batch_tokens: Annotated[int, Parameter(help="tokens per forward pass; changes speed and memory only")] = 4096,
    dtype: Annotated[
        Literal["float32", "float64"], Parameter(help="data type; float64 is slower and leaves no rounding residue")
    ] = "float32",
    seed: Annotated[int, Parameter(help="seed of the choice of masked tokens")] = 13,
    device: flags.Device = None,
    trust_remote_code: flags.TrustRemoteCode = False,
    overwrite: flags.Overwrite = False,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:
    """Show how much each token's vector comes from the token itself and from each of its neighbours.

    tain inspect tain-mini "mirrors turn left into right" "glass and metal make a mirror" --page look.html

    Attention, residual connection and layer normalisation are split exactly into one vector per input token (Kobayashi et al. 2021).
    With two texts, it also shows which pairs of tokens make them similar.

    Parameters
    ----------
    model
        a folder, a hub name, or tain-mini (built in)
    given
        the texts, each in quotation marks; or give a file with --texts
    """
    from tain.foundation.files import refuse_files
    from tain.foundation.progress import Progress
    from tain.models.saved import locate

    refuse_files(page, svg, csv, output, overwrite=overwrite, drawn=svg, inputs=[model, against, texts])
    wants_json = json or output is not None
    _refuse_options(
        given, texts, column, method=method, whole_layer=whole_layer, shown=shown, csv=csv, matrices=matrices, wants_json=wants_json
    )
    for name in (model, against):
        if name is not None:
            locate(name)  # report a wrong path before importing torch
    progress = Progress.for_terminal(json=json, quiet=quiet)
    for text in given or []:
        if len(text) < 256 and Path(text).is_file():
            progress.warn(f"{text!r} is also the name of a file, but is used as text: to read the file, give --texts {text}")
    stream = None if texts is None else _open(texts, column)
    found = _look(
        model,
        against,
        given or [] if stream is None else stream,
        progress=progress,
        shown=shown,
        whole_layer=whole_layer,
        masking_rate=masking_rate,
        max_tokens=max_tokens,
        batch_tokens=batch_tokens,
        dtype=dtype,
        seed=seed,
        device=device,
        trust_remote_code=trust_remote_code,
    )
    _warn(found, blank=stream.blank if stream is not None else 0, progress=progress)
    _write(found, page=page, svg=svg, csv=csv, output=output, matrices=matrices, method=method, overwrite=overwrite)
    _show(found, as_json=json, matrices=matrices)


def _refuse_options(
    given: list[str] | None,
    texts: str | None,
    column: str | None,
    *,
    method: Method,
    whole_layer: bool,
    shown: int,
    csv: Path | None,
    matrices: bool,
    wants_json: bool,
) -> None:
    if given and texts is not None:
        raise UserError(f"texts are given as arguments and with --texts {texts}: give one of the two")
    if not given and texts is None:
        raise UserError("no text is given: give one or more in quotation marks, or a file with --texts FILE")
    if column is not None and texts is None:
        raise UserError(
            "--column names a column of a table, but texts are given as arguments: leave it out, or give the table with --texts"
        )
    if method == "Layer-N" and not whole_layer:
        raise UserError("method is Layer-N, which needs --whole-layer: give that too")
    if csv is not None and not shown:
        raise UserError("the CSV file holds the shown texts, but --shown is 0: give 1 or more")
    if matrices and not wants_json:
        raise UserError("--matrices adds to the JSON, but no JSON is written: give --output FILE or --json, or leave it out")


def _open(source: str, column: str | None) -> "Stream[str]":
    from tain.text.readers import read_texts

    return read_texts(source, column=column)


def _look(model: str, against: str | None, texts: Iterable[str], **settings: Any) -> "Inspection | Comparison":
    from tain.inspection.run import inspect as look_inside
    from tain.inspection.run import inspect_against

    return look_inside(model, texts, **settings) if against is None else inspect_against(model, against, texts, **settings)


def _models(found: "Inspection | Comparison") -> list["Inspection"]:
    from tain.inspection.results import Inspection

    return [found] if isinstance(found, Inspection) else [found.first, found.second]


def _warn(found: "Inspection | Comparison", *, blank: int, progress: "Progress") -> None:
    if blank:
        progress.warn(f"{blank:,} blank lines were skipped")
    for each in _models(found):
        if each.truncated:
            progress.warn(f"{each.title}: texts cut at {each.max_tokens:,} tokens: {each.truncated:,}, {each.cut_tokens:,} tokens lost")
        if each.left_out:
            progress.warn(f"{each.title}: texts with special tokens only, left out: {each.left_out:,}")
        if len(each.texts) > 1 and each.why_no_similarity:
            progress.note(f"{each.title}: no similarity is explained, because {each.why_no_similarity}")


def _write(
    found: "Inspection | Comparison",
    *,
    page: Path | None,
    svg: Path | None,
    csv: Path | None,
    output: Path | None,
    matrices: bool,
    method: Method,
    overwrite: bool,
) -> None:
    from tain.foundation.files import whole_file
    from tain.inspection.drawing import as_svg
    from tain.inspection.pages import inspection_page

    makers = (
        (page, lambda: inspection_page(found)),
        (svg, lambda: as_svg(found, method=method)),
        (csv, found.to_csv),
        (output, lambda: as_object(found.to_dict(matrices=matrices)) + "\n"),
    )
    for target, make in makers:
        if target is not None:
            with whole_file(target, overwrite=overwrite) as path:
                path.write_text(make(), encoding="utf-8")


def _show(found: "Inspection | Comparison", *, as_json: bool, matrices: bool) -> None:
    if as_json:
        print(as_object(found.to_dict(matrices=matrices)))
        return
    from rich.console import Console

    from tain.inspection.inspection_table import as_table

    console = Console(highlight=False)
    console.print(as_table(found))
    console.print(f"\n{found.claim()}.", markup=False)

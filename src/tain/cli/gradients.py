"""``tain gradients``: sources of a masked language model's gradient noise, and whether fully explored masks can reduce it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from tain.cli import flags
from tain.cli.objects import as_object, write_object
from tain.cli.sources import TextFiles

if TYPE_CHECKING:
    from tain.inspection.gradients.report import GradientReport


def gradients(
    model: str,
    texts: TextFiles,
    /,
    *,
    column: Annotated[str | None, Parameter(help="column of the texts, if TEXTS are tables")] = None,
    masking_rate: Annotated[float, Parameter(help="share of tokens in a mask, up to 0.5; use the rate you train with")] = 0.15,
    masks: Annotated[
        int | None,
        Parameter(help="disjoint masks per text (K), 2 or more; default: the most that fit, floor(1 / masking rate)"),
    ] = None,
    blocks: Annotated[int, Parameter(help="blocks of text to measure on; intervals shrink with its square root, time grows linearly")] = 64,
    block_tokens: Annotated[int, Parameter(help="length of a block, special tokens included; use the length you train with")] = 128,
    rounds: Annotated[int, Parameter(help="independent sets of masks per block, 2 or more; each computes masks + 4 gradients")] = 2,
    elements: Annotated[
        int, Parameter(help="longer gradients are folded to this many elements (random signs, unbiased); more is more precise")
    ] = 2**20,
    resamples: Annotated[int, Parameter(help="bootstrap resamples behind each interval")] = 1000,
    seed: Annotated[int, Parameter(validator=Number(gte=0), help="seed of blocks, masks, corruption and signs")] = 13,
    output: flags.FiguresOutput = None,
    chart: Annotated[Path | None, Parameter(help="draw gradient correlation against mask distance into this SVG file")] = None,
    overwrite: flags.Overwrite = False,
    device: flags.Device = None,
    trust_remote_code: flags.TrustRemoteCode = False,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:
    """Measure where a masked LM's gradient noise comes from, and whether fully explored masks can reduce it.

    tain gradients tain-mini book.txt --blocks 16 --chart gradients.svg

    Computes masks + 4 gradients per block and round: a few seconds per block with tain-mini on two cores. Nothing is trained.

    Parameters
    ----------
    model
        a masked language model: a folder, a hub name or tain-mini
    """
    from tain.foundation.files import refuse_files
    from tain.foundation.progress import Progress
    from tain.models.saved import locate

    refuse_files(output, chart, overwrite=overwrite, drawn=chart, inputs=[model, *texts])
    locate(model)  # report a wrong path before importing torch
    from tain.inspection.gradients.probe import probe_gradients

    report = probe_gradients(
        model,
        texts,
        column=column,
        masking_rate=masking_rate,
        masks=masks,
        blocks=blocks,
        block_tokens=block_tokens,
        rounds=rounds,
        elements=elements,
        resamples=resamples,
        seed=seed,
        device=device,
        trust_remote_code=trust_remote_code,
        progress=Progress.for_terminal(json=json, quiet=quiet),
    )
    _write(report, output=output, chart=chart, overwrite=overwrite)
    _show(report, as_json=json)


def _write(report: "GradientReport", *, output: Path | None, chart: Path | None, overwrite: bool) -> None:
    from tain.foundation.files import whole_file
    from tain.inspection.gradients.chart import as_svg

    if output is not None:
        write_object(report.to_dict(), output, overwrite=overwrite)
    if chart is not None:
        with whole_file(chart, overwrite=overwrite) as path:
            path.write_text(as_svg(report), encoding="utf-8")


def _show(report: "GradientReport", *, as_json: bool) -> None:
    if as_json:
        print(as_object(report.to_dict()))
        return
    from rich.console import Console

    from tain.inspection.gradients.report import as_table

    console = Console(highlight=False)
    console.print(as_table(report))
    console.print(f"\n{report.claim()}.\n\n{report.verdict()}", markup=False)

"""``tain bench``."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tain.cli import flags
from tain.foundation.errors import UserError

if TYPE_CHECKING:
    from tain.evaluation.backends import BackendFigures


def bench(
    model: str,
    /,
    *,
    texts: Annotated[int, Parameter(help="short texts that are timed; more texts take longer and give steadier figures")] = 400,
    repeats: Annotated[int, Parameter(help="measurements per figure; the median is shown")] = 3,
    threads: Annotated[
        tuple[int, ...], Parameter(help="numbers of threads; repeat it; default: 1 and all", negative=(), show_default=False)
    ] = (),
    trust_remote_code: flags.TrustRemoteCode = False,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:
    """Measure every backend and data type for a model on this machine.

    tain bench exported

    Each row runs in its own process: texts/s for short, long and mixed texts, milliseconds for one short text (median and 99th
    percentile), seconds from process start to the first vector, memory, and the mean cosine to float32. A star marks what auto takes.

    Parameters
    ----------
    model
        a folder that tain export wrote, or any encoder, which then is timed in torch alone
    """
    if texts < 10 or repeats < 1 or any(each < 1 for each in threads):
        raise UserError("texts must be 10 or more, repeats and threads 1 or more: give larger numbers")
    from tain.evaluation.backends import measure_backends
    from tain.foundation.progress import Progress
    from tain.models.saved import locate

    locate(model)
    progress = Progress.for_terminal(json=json, quiet=quiet)
    found = measure_backends(model, texts=texts, repeats=repeats, threads=threads, trust_remote_code=trust_remote_code, progress=progress)
    if json:
        import json as encoder
        from dataclasses import asdict

        print(encoder.dumps({"model": model, "backends": [asdict(each) for each in found]}))
        return
    _show(found)


def _show(found: "list[BackendFigures]") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("", "threads", "short/s", "mixed/s", "long/s", "p50 ms", "p99 ms", "start s", "MB", "cosine"):
        table.add_column(title, justify="left" if not title else "right")
    for each in found:
        table.add_row(
            f"{each.backend} {each.dtype}{' *' if each.is_auto else ''}",
            str(each.threads),
            *(f"{value:,.0f}" for value in (each.short_per_s, each.mixed_per_s, each.long_per_s)),
            *(f"{value:.1f}" for value in (each.p50_ms, each.p99_ms, each.start_s)),
            f"{each.memory_mb:,.0f}",
            f"{each.cosine:.5f}",
        )
    Console(highlight=False).print(table)

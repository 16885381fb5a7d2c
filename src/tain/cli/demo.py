"""``tain demo``: train and measure the built-in model on text from this machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from tain.cli import flags

if TYPE_CHECKING:
    from tain.demo.page import BeforeAfter
    from tain.demo.retrieval import Change


def demo(
    *,
    output: Annotated[flags.Output, Parameter(help="folder for encoder and page; replaces that of an earlier demo")] = Path("tain-demo"),
    minutes: Annotated[
        float, Parameter(help="total time, 1 or more; a slow machine trains on fewer texts, but for at least a minute")
    ] = 2.0,
    sentences: Annotated[int, Parameter(help="train on at most this many sentences, 600 or more")] = 10_000,
    functions: Annotated[int, Parameter(help="measure on at most this many held-out functions, 20 or more")] = 1_000,
    seed: Annotated[int, Parameter(validator=Number(gte=0), help="seed of the choice of held-out modules and of the training")] = 13,
    overwrite: Annotated[flags.Overwrite, Parameter(help="replace OUTPUT even if something else is there")] = False,
    json: Annotated[flags.Json, Parameter(help="progress as JSON events on stderr")] = False,
    quiet: Annotated[flags.Quiet, Parameter(help="no progress; warnings only")] = False,
) -> None:
    """Turn the built-in model into an encoder, with text found on this machine, and compare before and after.

    tain demo

    Writes tain-demo/page.html within two minutes on two cores. The demo reads about ten thousand sentences from the docstrings of the
    installed Python packages; nothing is imported and no data leaves the machine. It trains tain-mini without labels on as many of them
    as the time allows, for at most two epochs. It then measures retrieval: the description of a held-out function is the query, the
    rest of its docstring is the correct answer. TF-IDF and tain-mini's input embeddings, which need no training, are the baselines.
    """
    from tain.demo.run import refuse_foreign, refuse_settings, run_demo
    from tain.foundation.progress import Progress

    refuse_settings(minutes=minutes, sentences=sentences, functions=functions, seed=seed)
    replaces = refuse_foreign(output, overwrite=overwrite)
    progress = Progress.for_terminal(json=json, quiet=quiet)
    made = run_demo(output, minutes=minutes, sentences=sentences, functions=functions, seed=seed, overwrite=replaces, progress=progress)
    _print_result(made.page, output)


def _print_result(page: "BeforeAfter", output: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from tain.demo.page import figure, gain, headline
    from tain.demo.run import ENCODER, PAGE

    table = Table(title="a description finds its own docstring", title_justify="left")
    for name in ("", *(change.name for change in page.changes), f"new encoder's {page.changes[0].name} is"):
        table.add_column(name, justify="right" if name else "left")

    def add(title: str, changes: "Sequence[Change]") -> None:
        verdict = {1: "better", 0: "not clearly different", -1: "worse"}[changes[0].direction]
        table.add_row(title, *(figure(change, change.before) for change in changes), verdict)

    for rival in page.rivals:
        if rival.is_baseline:
            add(rival.title, rival.changes)
    add(f"{page.model}, before", page.changes)
    table.add_row(f"{page.model}, after", *(figure(change, change.after) for change in page.changes), "", style="bold")
    for rival in page.rivals:
        if not rival.is_baseline:
            add(rival.title, rival.changes)
    properties = Table(title="held-out docstrings, no labels", title_justify="left")
    for name in ("", "before", "after", "better is", ""):
        properties.add_column(name, justify="right" if name in ("before", "after") else "left")
    for row in page.properties:
        properties.add_row(row.name, f"{row.before:.3f}", f"{row.after:.3f}", row.better, row.verdict)
    console = Console()
    console.print(table)
    console.print(properties)
    print(f"{headline(page)}.")
    print(f"{gain(page)}.")
    for reason in page.worse:
        print(f"Worse than the untouched model: {reason}.")
    print(f"encoder: {output / ENCODER}")
    print(f"page: {(output / PAGE).resolve()}")

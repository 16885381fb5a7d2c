"""``tain mirror``: turn a masked language model into an encoder."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tain.cli import flags
from tain.cli.settings import build_config, flags_of, seconds
from tain.cli.sources import TextSource, refuse_shared_input, refuse_two_documents
from tain.foundation.errors import UserError
from tain.recipes.mirror.config import MirrorConfig

if TYPE_CHECKING:
    from tain.foundation.progress import Progress
    from tain.recipes.mirror.recipe import Mirrored

_Flags: Any = flags_of(MirrorConfig, without=("budget_s",))
_NONE_GIVEN = _Flags()


def mirror(
    model: str,
    texts: TextSource,
    /,
    *,
    output: Annotated[flags.Output, Parameter(help="folder for the encoder")],
    budget: Annotated[
        str | None, Parameter(help="time from process start to saved folder, for example 30s or 2m; the training length is chosen to fit")
    ] = None,
    column: Annotated[str | None, Parameter(help="column of the texts, if TEXTS is a table")] = None,
    pairs: Annotated[
        tuple[str, str] | None,
        Parameter(help="two columns of texts that mean the same, for weak supervision: --pairs left right", negative=()),
    ] = None,
    document_column: Annotated[
        str | None, Parameter(help="column that identifies the document of each row, if TEXTS is a table of sentences")
    ] = None,
    documents: Annotated[
        list[str] | None,
        Parameter(
            help="files of running text for pairs of neighbouring sentences, with an empty line between documents; default: TEXTS",
            negative=(),
        ),
    ] = None,
    settings: Annotated[Path | None, Parameter(help="TOML file of the settings below; flags win")] = None,
    overwrite: flags.OverwriteRun = False,
    all_figures: Annotated[
        bool, Parameter(help="print all label-free figures, not only the main four; tain.json always holds all", negative=())
    ] = False,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
    config: Annotated[_Flags, Parameter(name="*")] = _NONE_GIVEN,  # pyright: ignore[reportInvalidTypeForm]
) -> None:
    """Turn a masked language model and a file of texts into an encoder. No labels, no extra data.

    tain mirror tain-mini sentences.txt -o encoder --budget 30s

    If you have running text, --recipe best gives better encoders: tain mirror tain-mini sentences.txt --documents articles.txt -o encoder
    --recipe best trains on pairs of neighbouring sentences. --recipe fast takes seconds. Neither needs labels.

    Parameters
    ----------
    model
        a folder, a hub name, or tain-mini (built in)
    """
    settled = build_config(MirrorConfig, config, file=settings, budget_s=seconds(budget) if budget is not None else None)
    settled.refuse_without_effect()
    from tain.foundation.files import refuse_existing
    from tain.foundation.machine import process_age_s
    from tain.foundation.progress import Progress
    from tain.models.saved import locate

    refuse_existing(output, overwrite=overwrite, inputs=[model, texts, *(documents or ()), settings])
    locate(model)
    progress = Progress.for_terminal(json=json, quiet=quiet)
    if column is not None and pairs is not None:
        raise UserError("column and pairs both name columns: give --column for texts, or --pairs for texts that mean the same")
    if pairs is not None and (documents or document_column is not None):
        raise UserError("pairs already are the positives: leave out --documents and --document-column, or --pairs")
    refuse_two_documents(documents, document_column)
    wants_documents = settled.recipe == "best" or "neighbours" in settled.positive_kinds
    if document_column is not None and not wants_documents:
        raise UserError(
            "document_column only applies to pairs of neighbouring sentences: give --recipe best or --positives neighbours, or leave it out"
        )
    given = _read(texts, column, pairs, progress, document_column=document_column, in_documents=wants_documents and not documents)
    background = [sentence for source in documents or () for sentence in _read(source, None, None, progress, in_documents=True)]
    from tain.recipes.mirror.recipe import mirror as run
    from tain.training import distributed

    with distributed.ending_processes():
        began_s = time.monotonic() - process_age_s()
        more = {"documents": background} if documents else {}
        result = run(model, given, output, config=settled, overwrite=overwrite, progress=progress, began_s=began_s, **more)
        if distributed.rank() == 0:
            _show(result, as_json=json, all_figures=all_figures)


def _read(
    source: str,
    column: str | None,
    pairs: tuple[str, str] | None,
    progress: "Progress",
    *,
    document_column: str | None = None,
    in_documents: bool = False,
) -> list[Any]:
    from tain.text.readers import read_pairs, read_sentences, read_texts

    refuse_shared_input(source)
    if pairs is not None:
        stream = read_pairs(source, columns=pairs)
    elif in_documents:
        return list(read_sentences(source, column=column, document_column=document_column))  # a blank line ends a document
    else:
        stream = read_texts(source, column=column)
    given = list(stream)
    if stream.blank:
        progress.warn(f"{stream.blank:,} blank {'lines' if pairs is None else 'pairs'} of {source!r} were skipped")
    return given


def _show(result: "Mirrored", *, as_json: bool, all_figures: bool) -> None:
    """Print the before-and-after table, or everything as one JSON object."""
    from tain.recipes.mirror.model_card import curve_in_words, figure_rows, published_figure, size_rows, spread_in_words

    before = result.before.to_dict() if result.before else None
    after = result.after.to_dict() if result.after else None
    lexical = result.lexical.to_dict() if result.lexical else None
    if as_json:
        import json

        everything = {
            "folder": str(result.folder),
            "before": before,
            "after": after,
            "lexical": lexical,
            "steps": result.steps,
            "texts": result.texts,
        }
        everything |= {"counts": result.counts, "worse": result.worse, "best_seed": result.runs[result.best].seed}
        everything |= {"curves": [run.curve.to_dict() if run.curve else None for run in result.runs]}
        everything |= {"sizes": [asdict(size) for size in result.sizes]}
        everything |= {"seeds": [run.seed for run in result.runs], "all_seeds": result.figures_of_seeds(), "spread": result.spread()}
        print(json.dumps(everything, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if before is not None and after is not None:
        short = f", {before['too_short']} too short for copies" if before["too_short"] else ""
        table = Table(title=f"{before['texts']} held-out texts, no labels{short}", title_justify="left")
        table.add_column("figure")
        table.add_column("before", justify="right")
        table.add_column("after", justify="right")
        table.add_column("lexical", justify="right")
        table.add_column("better is")
        for row in figure_rows(before, after, lexical, all_figures=all_figures):
            table.add_row(*row)
        console.print(table)
    if result.sizes:
        sizes = Table(title="vectors cut to their first numbers, self-retrieval", title_justify="left")
        for heading in ("numbers", "MRR before", "MRR after", "R@1 after"):
            sizes.add_column(heading, justify="right")
        for row in size_rows([asdict(size) for size in result.sizes]):
            sizes.add_row(*row)
        console.print(sizes)
    curve = result.runs[result.best].curve
    if curve is not None and (sentence := curve_in_words(curve.to_dict())):
        console.print(sentence)
    if len(result.runs) > 1:
        for line in spread_in_words(result.spread(), all_figures=all_figures):
            console.print(f"{line} over {len(result.runs)} seeds")
        by = "loss of the last batch" if after is None else "self-retrieval, then alignment and uniformity"
        console.print(f"kept: seed {result.runs[result.best].seed}, by {by}")
    counts = result.counts
    repeated = f"{counts['repeated']:,} repeated{' (and kept)' if result.config.keep_duplicates else ''}"
    sharing = f"{counts['sharing']:,} share a text with another pair, " if counts["sharing"] else ""
    console.print(
        f"{result.texts:,} texts in {result.steps} steps, {result.runs[result.best].seconds:.1f} s; "
        f"{repeated}, {sharing}{counts['held_out']:,} held out, {counts['left_over']:,} left over, "
        f"{counts['not_read']:,} not read, {counts['truncated']:,} cut"
    )
    if published := published_figure(result.config, str(result.base_model)):
        console.print(published)
    if result.folder is not None:
        console.print(f"saved in {result.folder}", soft_wrap=True, highlight=False, markup=False)

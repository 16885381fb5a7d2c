"""``tain compare``: which recipe for my text?"""

import time
from typing import Annotated, Any

from cyclopts import Parameter

from tain.cli import flags
from tain.cli.settings import build_config, flags_of, seconds
from tain.cli.sources import TextSource, refuse_shared_input, refuse_two_documents
from tain.recipes.compare.config import CompareConfig

_Flags: Any = flags_of(CompareConfig, without=("budget_s", "suite"))
_NONE_GIVEN = _Flags()


def compare(
    model: str,
    texts: TextSource,
    /,
    *,
    output: Annotated[flags.Output, Parameter(help="folder for the best encoder, with compare.json and compare.html in it")],
    budget: Annotated[
        str | None, Parameter(help="time for the whole comparison, for example 10m; recipes that do not fit are not tried")
    ] = None,
    column: Annotated[str | None, Parameter(help="column of the texts, if TEXTS is a table")] = None,
    document_column: Annotated[
        str | None, Parameter(help="column that identifies the document of each row, if TEXTS is a table of sentences")
    ] = None,
    documents: Annotated[
        list[str] | None,
        Parameter(
            help="files of running text for pairs of neighbouring sentences, with an empty line between documents; default: TEXTS, if it"
            " has such lines",
            negative=(),
        ),
    ] = None,
    suite: Annotated[
        tuple[str, ...],
        Parameter(
            help="labelled sets that decide instead, as in tain evaluate: sts, stsb_dev, or a tsv of your own; repeat it for several: the mean over"
            " the suites decides, and your own tables are one suite",
            negative=(),
            show_default=False,
        ),
    ] = (),
    data: flags.Data = None,
    overwrite: flags.OverwriteRun = False,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
    config: Annotated[_Flags, Parameter(name="*")] = _NONE_GIVEN,  # pyright: ignore[reportInvalidTypeForm]
) -> None:
    """Try the label-free recipes on your own texts, measure each on held-out texts, and keep the best encoder.

    tain compare tain-mini sentences.txt -o encoder --budget 10m

    Every candidate trains on the same texts. Two copies of each held-out text, each without a block of its words, must find each other. Every figure has a 95% bootstrap
    interval, and the result says how sure the choice is. If you have labelled pairs, --suite pairs.tsv lets them decide.

    Parameters
    ----------
    model
        a folder, a hub name, or tain-mini (built in)
    """
    began_s = time.monotonic()
    settled = build_config(CompareConfig, config, file=None, budget_s=seconds(budget) if budget is not None else None, suite=suite or None)
    from tain.foundation.files import refuse_existing
    from tain.foundation.machine import process_age_s
    from tain.foundation.progress import Progress
    from tain.models.saved import locate
    from tain.text.readers import read_sentences

    refuse_existing(output, overwrite=overwrite, inputs=[model, texts, *(documents or ())])
    locate(model)
    progress = Progress.for_terminal(json=json, quiet=quiet)
    refuse_shared_input(texts)
    refuse_two_documents(documents, document_column)
    stream = read_sentences(texts, column=column, document_column=document_column)
    given = list(stream)
    background = [sentence for source in documents or () for sentence in read_sentences(source)]
    from tain.recipes.compare.recipe import compare as run

    began_s -= process_age_s() - (time.monotonic() - began_s)
    more = {"documents": background} if documents else {}
    result = run(model, given, output, config=settled, data=data, overwrite=overwrite, progress=progress, began_s=began_s, **more)
    if json:
        from tain.cli.objects import as_object

        print(as_object(result.to_dict()))
        return
    from rich.console import Console

    from tain.recipes.compare.table import comparison_table

    console = Console(highlight=False)
    console.print(comparison_table(result))
    console.print()
    for sentence in result.advice():
        console.print(sentence, markup=False)
    console.print(f"saved in {output}; the page is {output / 'compare.html'}", soft_wrap=True, markup=False)

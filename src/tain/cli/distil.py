"""``tain distil``: train a small student from a teacher model, labels, or both."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tain.cli import flags
from tain.cli.settings import build_config, flags_of, refuse_idle
from tain.cli.sources import TextSource, refuse_shared_input
from tain.foundation.errors import UserError
from tain.recipes.distil.config import DistilConfig

if TYPE_CHECKING:
    from tain.foundation.progress import Progress
    from tain.recipes.distil.recipe import Distilled
    from tain.text.records import Example

_Flags: Any = flags_of(DistilConfig)
_NONE_GIVEN = _Flags()


def distil(
    teacher: str,
    texts: TextSource,
    /,
    *,
    output: Annotated[flags.Output, Parameter(help="folder for the student")],
    column: Annotated[str | None, Parameter(help="column of the texts, if TEXTS is a table")] = None,
    label_column: Annotated[str | None, Parameter(help="column of the labels; empty means unlabelled")] = None,
    tags_column: Annotated[
        str | None, Parameter(help="column of the tags: one per token, separated by spaces, in BIO format (O B-city I-city)")
    ] = None,
    unlabelled: Annotated[
        str | None, Parameter(help="more texts, without labels; the teacher labels them (if a table, --column applies)")
    ] = None,
    classifier: Annotated[str | None, Parameter(help="classifier for the labels of whole texts, if the teacher is a tagger")] = None,
    labels: Annotated[Path | None, Parameter(help="names of the teacher's classes, one per line, in the order of its logits")] = None,
    tags: Annotated[Path | None, Parameter(help="names of the teacher's tags, in the same format")] = None,
    settings: Annotated[Path | None, Parameter(help="TOML file of the settings below; flags win")] = None,
    overwrite: flags.OverwriteRun = False,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
    config: Annotated[_Flags, Parameter(name="*")] = _NONE_GIVEN,  # pyright: ignore[reportInvalidTypeForm]
) -> None:
    """Train a student of two to four megabytes to predict a large model's outputs. The student needs no GPU and no torch.

    tain distil tain-mini sentences.txt -o student --epochs 1

    Parameters
    ----------
    teacher
        an encoder (a folder, a hub name, tain-mini); for --task classify or tag, a fine-tuned transformers model; a file of its outputs with one row per text (.npy, .safetensors: vectors, intents, slots); or none, to train on given labels alone
    """
    settled = build_config(DistilConfig, config, file=settings)
    of_labels = {"label_column": label_column, "unlabelled": unlabelled, "labels": labels}
    _refuse_idle(settled.task, **of_labels, tags_column=tags_column, tags=tags, classifier=classifier)
    from tain.foundation.files import refuse_existing
    from tain.foundation.progress import Progress
    from tain.text.tables import kind_of

    inputs = [teacher, texts, unlabelled, classifier, labels, tags, settings, settled.init_from, settled.token_vectors]
    refuse_existing(output, overwrite=overwrite, inputs=inputs)
    _find(teacher)
    if classifier is not None:
        _find(classifier)
    progress = Progress.for_terminal(json=json, quiet=quiet)
    given = _read(texts, column, label_column, tags_column, progress)
    if unlabelled is not None:
        given += _read(unlabelled, column if kind_of(unlabelled) != "text" else None, None, None, progress)
    names = {"labels": _names(labels), "tags": _names(tags)}
    from tain.recipes.distil.recipe import distil as run
    from tain.training import distributed

    with distributed.ending_processes():
        result = run(teacher, given, output, config=settled, classifier=classifier, overwrite=overwrite, progress=progress, **names)
        if distributed.rank() == 0:
            _show(result, as_json=json)


def _refuse_idle(task: str, **given: object) -> None:
    """Refuse flags that have no effect on the task."""
    of_tags = {"tags_column", "tags", "classifier"}
    idle = {name: given[name] for name in {"embed": given, "classify": of_tags, "tag": ()}[task] if given[name] is not None}
    refuse_idle(idle, of=f"--task {task}", instead=f", or give --task {'tag' if of_tags & set(idle) else 'classify'}")


def _find(teacher: str) -> None:
    from tain.models.saved import locate
    from tain.recipes.distil.teacher import MATRIX_ENDINGS, NONE

    if teacher.endswith(MATRIX_ENDINGS):
        if not Path(teacher).is_file():
            raise UserError(f"teacher file {teacher!r} does not exist: give a matrix of outputs, or a model")
    elif teacher != NONE:
        locate(teacher)


def _read(source: str, column: str | None, label_column: str | None, tags_column: str | None, progress: "Progress") -> "list[Example]":
    from tain.text.readers import read_rows, read_texts
    from tain.text.records import Example

    refuse_shared_input(source)
    if label_column is None and tags_column is None:
        stream = read_texts(source, column=column)
        found = [Example(text) for text in stream]
        if stream.blank:
            progress.warn(f"{stream.blank:,} blank texts of {source!r} were skipped")
        return found
    names, rows = read_rows(source)
    wanted = [("--column", column), ("--label-column", label_column), ("--tags-column", tags_column)]
    for flag, name in wanted:
        if name is not None and name not in names:
            raise UserError(f"{source!r} has no column {name!r}: give {flag} one of {', '.join(names)}")
    if column is None:
        raise UserError(f"{source!r} has the columns {', '.join(names)}: name the column of the texts with --column")
    return [
        Example(
            row[column],
            (row[label_column] or None) if label_column is not None else None,
            tuple(row[tags_column].split()) or None if tags_column is not None else None,
        )
        for row in rows
    ]


def _names(file: Path | None) -> list[str] | None:
    if file is None:
        return None
    from tain.text.readers import read_texts

    return [name.strip() for name in read_texts(file)]


def _show(result: "Distilled", *, as_json: bool) -> None:
    """Print figures and sizes, or everything as one JSON object."""
    from tain.recipes.distil.model_card import figure_rows, size_rows

    if as_json:
        import json

        everything = {"folder": str(result.folder), "figures": result.figures, "sizes": result.sizes, "counts": result.counts}
        print(json.dumps(everything | {"steps": result.trained.steps}, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if result.figures:
        table = Table(title=f"{result.counts['held_out']:,} held-out texts", title_justify="left")
        table.add_column("figure")
        table.add_column("value", justify="right")
        for row in figure_rows(result.figures):
            table.add_row(*row)
        console.print(table)
    table = Table(title=f"{result.sizes['parameters']:,} parameters", title_justify="left")
    table.add_column("size")
    table.add_column("bytes", justify="right")
    for name, value in size_rows(result.sizes):
        table.add_row(name, value.removesuffix(" bytes"))
    console.print(table)
    counts = result.counts
    console.print(
        f"{counts['given']:,} texts given, {result.trained.steps:,} steps, {result.trained.seconds:.1f} s; {counts['repeated']:,} repeated, "
        f"{counts['held_out']:,} held out, {counts['left_over']:,} left over, {counts['augmented']:,} augmented copies added, {counts['truncated']:,} cut"
    )
    if result.folder is not None:
        console.print(f"saved in {result.folder}", soft_wrap=True, highlight=False, markup=False)

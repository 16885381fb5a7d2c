"""``tain label``: predict classes or token tags of texts."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tain.cli import flags
from tain.cli.sources import TextSource

if TYPE_CHECKING:
    from tain.evaluation.tagging import LabelPredictor
    from tain.foundation.progress import Progress

_WINDOW_TEXTS = 4096


def label(
    model: str,
    texts: TextSource,
    /,
    *,
    output: Annotated[flags.OptionalOutput, Parameter(help="JSON lines file for the labels; default: standard output")] = None,
    column: Annotated[str | None, Parameter(help="column of the texts, if TEXTS is a table")] = None,
    device: flags.Device = None,
    trust_remote_code: flags.TrustRemoteCode = False,
    overwrite: flags.Overwrite = False,
    quiet: flags.Quiet = False,
) -> None:
    """Predict the class, the token tags or both of each text: one JSON object per line, with text, label, chance and tags.

    tain label student texts.txt -o labels.jsonl

    Parameters
    ----------
    model
        a student of --task classify or tag (no torch needed), a transformers classifier or tagger, or both: intents=MODEL,slots=MODEL
    """
    from tain.cli.models import find_labeller, load_labeller
    from tain.foundation.files import refuse_existing, whole_file
    from tain.foundation.progress import Progress
    from tain.text.readers import read_texts

    if output is not None:
        refuse_existing(output, overwrite=overwrite)
    find_labeller(model)
    given = read_texts(texts, column=column)
    progress = Progress.for_terminal(json=False, quiet=quiet)
    lines = _lines(load_labeller(model, device=device, trust_remote_code=trust_remote_code), given, progress)
    if output is None:
        for line in lines:
            print(line)
        _tell_of_blanks(given.blank, progress)
        return
    with whole_file(output, overwrite=overwrite) as path, path.open("w", encoding="utf-8") as file:
        count = sum(1 for line in lines if file.write(f"{line}\n"))
    _tell_of_blanks(given.blank, progress)
    print(f"{count:,} texts labelled, saved in {output}")


def _tell_of_blanks(blank: int, progress: "Progress") -> None:
    if blank:
        progress.warn(f"{blank:,} blank lines were skipped: line numbers of the result count texts")


def _lines(model: "LabelPredictor", texts: Iterable[str], progress: "Progress") -> Iterator[str]:
    """Label a stream of texts, one window at a time."""
    import json

    stream, cut = iter(texts), 0
    while window := list(islice(stream, _WINDOW_TEXTS)):
        for text, prediction in zip(window, model.predict(window, progress=progress), strict=True):
            found = {
                "text": text,
                "label": prediction.label,
                "chance": prediction.chance and round(prediction.chance, 5),
                "tags": prediction.tags,
            }
            yield json.dumps({name: value for name, value in found.items() if value is not None}, ensure_ascii=False)
        cut += model.truncated
    if cut:
        progress.warn(f"{cut:,} texts were cut at the model's length limit; tokens beyond it have the tag O")

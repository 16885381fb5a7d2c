"""``tain encode``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from tain.cli import flags
from tain.cli.sources import TextSource
from tain.foundation.choices import Pooling

if TYPE_CHECKING:
    from tain.models.encode_to_file import EncodedFile

_LONGEST_READ = 1 << 20  # bytes taken at a time while lines are counted


def encode(
    model: str,
    texts: TextSource,
    /,
    *,
    output: Annotated[flags.Output, Parameter(help="file for the vectors, ending in .npy, .parquet or .safetensors")],
    column: Annotated[str | None, Parameter(help="the texts' column, where TEXTS is a table")] = None,
    language: Annotated[str | None, Parameter(help="the texts' language, for a model corrected by language (tain correct)")] = None,
    with_texts: Annotated[bool, Parameter(help="store the texts beside their vectors; parquet only", negative=())] = False,
    dtype: Annotated[
        Literal["float32", "float16"], Parameter(help="number type of the stored vectors; float16 takes half the room, three digits stay")
    ] = "float32",
    normalize: Annotated[
        bool | None, Parameter(help="scale every vector to length 1, or leave it; default: what the model says, else leave it")
    ] = None,
    pooling: Annotated[Pooling | None, Parameter(help="how token vectors become one; default: what the model says, else mean")] = None,
    max_tokens: Annotated[
        int | None, Parameter(help="cut texts at this many tokens; default: the model's limit; cut texts are counted")
    ] = None,
    batch_tokens: Annotated[
        int | None, Parameter(help="tokens encoded at a time; more takes more memory; default: 4096, on a GPU 65536")
    ] = None,
    device: flags.Device = None,
    compute_dtype: flags.Dtype = "auto",
    resume: Annotated[bool, Parameter(help="go on where an interrupted run stopped; where there is none, start", negative=())] = False,
    overwrite: Annotated[
        flags.Overwrite, Parameter(help="replace the file if it exists; without --resume also drop what an interrupted run left")
    ] = False,
    trust_remote_code: flags.TrustRemoteCode = False,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:
    """Turn texts into vectors, in order, in bounded memory.

    tain encode tain-mini sentences.txt -o vectors.npy

    An interrupted run goes on with --resume. The file takes its name when it is whole.

    Parameters
    ----------
    model
        a folder, a student's too, a hub name, or tain-mini (built in)
    """
    from tain.cli.models import find_encoder, load_encoder
    from tain.foundation.progress import Progress
    from tain.models.encode_to_file import encode_to_file, refuse_output
    from tain.text.readers import read_texts

    refuse_output(output, dtype=dtype, batch_tokens=batch_tokens, with_texts=with_texts, resume=resume, overwrite=overwrite)
    find_encoder(model)
    given = read_texts(texts, column=column)
    total = _count_texts(texts)
    progress = Progress.for_terminal(json=json, quiet=quiet)

    embedder = load_encoder(  # loads torch: what is wrong with files has been told by now
        model,
        progress=progress,
        device=device,
        dtype=compute_dtype,
        pooling=pooling,
        max_tokens=max_tokens,
        trust_remote_code=trust_remote_code,
    )
    made = encode_to_file(
        embedder,
        given,
        output,
        dtype=dtype,
        language=language,
        normalize=normalize,
        batch_tokens=batch_tokens,
        with_texts=with_texts,
        resume=resume,
        overwrite=overwrite,
        total=total,
        progress=progress,
    )
    if given.blank:
        progress.warn(f"{given.blank:,} blank lines were skipped: row numbers count texts, not lines")
    _show(made, blank=given.blank, as_json=json)


def _show(made: "EncodedFile", *, blank: int, as_json: bool) -> None:
    if as_json:
        import json

        figures = {"file": str(made.path), "texts": made.texts, "dim": made.dim, "truncated": made.truncated, "blank": blank}
        print(json.dumps({**figures, "resumed": made.resumed, "texts_per_s": round(made.texts_per_s, 1)}, ensure_ascii=False))
        return
    resumed = f" ({made.resumed:,} of an earlier run)" if made.resumed else ""
    print(f"{made.texts:,} vectors{resumed} of {made.dim} numbers, {made.texts_per_s:,.0f} texts/s, saved in {made.path}")


def _count_texts(source: str) -> int | None:
    """Count a plain text file's lines for the progress bar; None for what would have to be unpacked, parsed or read only once."""
    from tain.text.tables import kind_of

    path = Path(source)
    if kind_of(source) != "text" or path.suffix.lower() in (".gz", ".xz") or not path.is_file():
        return None
    texts, is_blank = 0, True
    with path.open("rb") as file:
        while piece := file.readline(_LONGEST_READ):
            is_blank = is_blank and piece.isspace()
            if piece.endswith(b"\n"):
                texts, is_blank = texts + (not is_blank), True
    return texts + (not is_blank)

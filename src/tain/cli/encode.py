"""``tain encode``: write the vectors of texts to a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tain.cli import flags
from tain.cli.settings import refuse_idle
from tain.cli.sources import TextSource
from tain.foundation.choices import AnyPooling, OutputDtype, Truncation

if TYPE_CHECKING:
    from tain.models.encode_to_file import EncodedFile
    from tain.models.vector_forms import Int8Ranges

_LONGEST_READ = 1 << 20  # bytes read at a time when counting lines


def encode(
    model: str | None = None,
    texts: TextSource | None = None,
    /,
    *,
    output: Annotated[
        flags.Output, Parameter(help="file for the vectors, ending in .npy, .parquet or .safetensors; with --shard or --ray a folder")
    ],
    column: Annotated[str | None, Parameter(help="column of the texts, if TEXTS is a table")] = None,
    language: Annotated[str | None, Parameter(help="language of the texts, for a model corrected per language (tain correct)")] = None,
    with_texts: Annotated[bool, Parameter(help="store the texts with their vectors; parquet only", negative=())] = False,
    keep: Annotated[
        list[str] | None, Parameter(help="columns of the table to store with the vectors; parquet only", consume_multiple=True, negative=())
    ] = None,
    id_column: Annotated[str | None, Parameter(help="column of the table to store as the column id; parquet only")] = None,
    shard: Annotated[
        str | None, Parameter(help="encode one share of the texts, such as 3/64, into a folder; finished shards are kept")
    ] = None,
    ray: Annotated[bool, Parameter(help="encode all shards with Ray, into a folder; finished shards are kept", negative=())] = False,
    shards: Annotated[int | None, Parameter(help="number of shards for --ray; default: 64")] = None,
    workers: Annotated[int | None, Parameter(help="processes for --ray; default: one per GPU, else one per processor core")] = None,
    address: Annotated[str | None, Parameter(help="address of a Ray cluster; default: one in this machine")] = None,
    merge: Annotated[Path | None, Parameter(help="join the shards of this folder into one file; takes no MODEL and TEXTS")] = None,
    output_dtype: Annotated[
        OutputDtype,
        Parameter(
            name=["--output-dtype", "--dtype"],
            help="data type of the stored vectors; float16 halves the size and keeps three digits; int8 stores 256 steps of each dimension's"
            " range, and the ranges in a second file; binary stores the signs, eight per byte",
        ),
    ] = "float32",
    int8_ranges: Annotated[
        Path | None,
        Parameter(
            help="ranges for int8: the .ranges.json file of another run, or an exported folder; default: measured on the first 16,384 texts"
        ),
    ] = None,
    dims: Annotated[
        int | None, Parameter(help="keep only the first numbers of each vector, scaled to length 1 again; default: all")
    ] = None,
    truncation: Annotated[
        Truncation,
        Parameter(
            help="what to do with texts that are too long: cut encodes their beginning, error refuses them, mean-of-chunks averages the"
            " vectors of all their parts"
        ),
    ] = "cut",
    prompt_name: Annotated[
        str | None, Parameter(help="put this prompt of the model before each text, such as query; default: its default prompt, if any")
    ] = None,
    prompt: Annotated[str | None, Parameter(help="put this text before each text, instead of one of the model's prompts")] = None,
    deterministic: Annotated[
        bool,
        Parameter(help="same bits for a text regardless of the other texts and the number of threads, in float32; slower", negative=()),
    ] = False,
    normalize: Annotated[
        bool | None, Parameter(help="scale every vector to length 1, or do not; default: the model's own setting, else do not")
    ] = None,
    pooling: Annotated[
        AnyPooling | None, Parameter(help="how token vectors become one; default: the model's own setting, else mean")
    ] = None,
    max_tokens: Annotated[
        int | None, Parameter(help="cut texts at this many tokens; default: the model's limit (512 if it has none); cut texts are counted")
    ] = None,
    batch_tokens: Annotated[
        int | None, Parameter(help="tokens encoded at a time; more needs more memory; default: 4096, on a GPU 65536")
    ] = None,
    device: flags.Device = None,
    compute_dtype: flags.ComputeDtype = "auto",
    backend: flags.Backend = "auto",
    resume: Annotated[bool, Parameter(help="continue an interrupted run, if there is one", negative=())] = False,
    overwrite: Annotated[
        flags.Overwrite,
        Parameter(help="replace the file if it exists; without --resume, also delete the partial results of an interrupted run"),
    ] = False,
    trust_remote_code: flags.TrustRemoteCode = False,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:
    """Encode texts as vectors, in order and in bounded memory.

    tain encode tain-mini sentences.txt -o vectors.npy

    --resume continues an interrupted run. The file appears under its name once it is complete. TEXTS may also be a folder or a quoted
    pattern of files.

    Parameters
    ----------
    model
        a folder (of an encoder or student), a hub name, or tain-mini (built in)
    """
    from tain.cli.encode_shards import encode_all_shares, encode_share, merge_into, refuse_mixed
    from tain.cli.models import find_encoder, load_encoder
    from tain.foundation.progress import Progress
    from tain.models.encode_to_file import encode_to_file, refuse_fields, refuse_output
    from tain.text.kept import KeptColumns, read_text_rows
    from tain.text.parts import files_of

    progress = Progress.for_terminal(json=json, quiet=quiet)
    refuse_mixed(model, texts, shard=shard, ray=ray, merge=merge, resume=resume, only_ray=[shards, workers, address])
    if merge is not None:
        idle = {
            "column": column,
            "language": language,
            "with_texts": with_texts or None,
            "keep": keep,
            "id_column": id_column,
            "output_dtype": None if output_dtype == "float32" else output_dtype,
            "int8_ranges": int8_ranges,
            "dims": dims,
            "truncation": None if truncation == "cut" else truncation,
            "prompt_name": prompt_name,
            "prompt": prompt,
            "deterministic": deterministic or None,
            "normalize": normalize,
            "pooling": pooling,
            "max_tokens": max_tokens,
        }
        refuse_idle(idle, of="--merge", instead=", or give it where the shards are made")
        merge_into(output, merge, overwrite=overwrite, progress=progress, as_json=json)
        return
    assert model is not None and texts is not None
    ranges = None if int8_ranges is None else _ranges(int8_ranges)
    options = {
        "dtype": output_dtype,
        "dims": dims,
        "int8_ranges": ranges,
        "truncation": truncation,
        "deterministic": deterministic,
        "prompt_name": prompt_name,
        "prompt": prompt,
        "language": language,
        "normalize": normalize,
        "batch_tokens": batch_tokens,
        "with_texts": with_texts,
    }
    columns = {"column": column, "keep": tuple(keep or ()), "id_column": id_column}
    loading = {
        "backend": backend,
        "device": device,
        "dtype": "float32" if deterministic and compute_dtype == "auto" else compute_dtype,
        "pooling": pooling,
        "max_tokens": max_tokens,
        "trust_remote_code": trust_remote_code,
    }
    find_encoder(model)
    if shard is not None:
        encode_share(model, texts, output, shard, options, columns, loading, overwrite=overwrite, progress=progress, as_json=json)
        return
    if ray:
        cluster = {"address": address, "workers": workers, "overwrite": overwrite}
        encode_all_shares(model, texts, output, shards, options, columns, loading, cluster, progress=progress, as_json=json)
        return
    inputs = [model, *files_of(texts)]
    refuse_output(
        output,
        dtype=output_dtype,
        batch_tokens=batch_tokens,
        with_texts=with_texts,
        resume=resume,
        overwrite=overwrite,
        inputs=inputs,
    )
    given = read_text_rows(texts, **columns)
    refuse_fields(output, [field.name for field in given.fields], with_texts=with_texts)
    total = _count_texts(texts)

    embedder = load_encoder(model, progress=progress, **loading)  # loads torch: errors in files have been reported by now
    kept = KeptColumns(given, given.fields)
    made = encode_to_file(
        embedder, kept.texts(), output, columns=kept, **options, resume=resume, overwrite=overwrite, total=total, progress=progress
    )
    if given.blank:
        progress.warn(f"{given.blank:,} blank lines were skipped: row numbers count texts, not lines")
    _show(made, blank=given.blank, as_json=json)


def _show(made: "EncodedFile", *, blank: int, as_json: bool) -> None:
    if as_json:
        import json

        figures = {"file": str(made.path), "texts": made.texts, "dim": made.dim, "truncated": made.truncated, "chunked": made.chunked}
        figures |= {"blank": blank} | ({} if made.ranges is None else {"int8_ranges": str(made.ranges)})
        print(json.dumps({**figures, "resumed": made.resumed, "texts_per_s": round(made.texts_per_s, 1)}, ensure_ascii=False))
        return
    ranges = "" if made.ranges is None else f", ranges of int8 in {made.ranges}"
    resumed = f" ({made.resumed:,} from an earlier run)" if made.resumed else ""
    print(f"{made.texts:,} vectors{resumed} of {made.dim} dimensions, {made.texts_per_s:,.0f} texts/s, saved in {made.path}{ranges}")


def _ranges(source: Path) -> "Int8Ranges":
    """The ranges in a file, or those that the export of a folder recorded."""
    from tain.exported.encoder import recorded_ranges
    from tain.models.vector_forms import Int8Ranges

    return recorded_ranges(source) if source.is_dir() else Int8Ranges.load(source)


def _count_texts(source: str) -> int | None:
    """Count the lines of a plain text file for the progress bar; None for compressed files, tables and standard input."""
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

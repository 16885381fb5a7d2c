"""Encode any number of texts into one vector file: streamed in bounded memory, resumable, written atomically."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, get_args, runtime_checkable

import numpy as np

from tain.foundation.choices import Truncation
from tain.foundation.errors import UserError, refuse_all
from tain.foundation.files import followed, open_own, refuse_existing
from tain.foundation.json_files import Field, checked_object, read_object
from tain.foundation.locks import lock, refusal
from tain.foundation.progress import Progress, Task
from tain.models.text_encoder import TextEncoder
from tain.models.unknown_tokens import WARN_FROM, check_known
from tain.models.vector_files import ENDINGS, Rows, StoredDtype, flush, rows_for
from tain.models.vector_forms import Int8Ranges, shortened, stored_as
from tain.text.collections import each_text
from tain.text.encoding import UnusableTextError
from tain.text.kept import KeptColumns, KeptField
from tain.text.windows import windows

_WINDOW_CHARS = 2_000_000  # long texts end a window here, so that a killed run loses minutes of work at most
_PARTIAL_FORMAT = 3
_STATE, _LOCK, _RANGES = "state.json", "lock", "ranges.json"
_CLIPPED = 0.02  # share of numbers outside of the ranges of int8 from which a warning is due
_STATE_FIELDS = {
    "settings": Field(kind=dict),
    "model": Field(kind=str),
    "weights": Field(kind=str),
    "windows": Field(kind=int, least=0),
    "texts": Field(kind=int, least=0),
    "truncated": Field(kind=int, least=0),
    "chunked": Field(kind=int, least=0),
    "clipped": Field(kind=float, least=0),
    "digest": Field(kind=str),
}


@runtime_checkable
class ResumableEncoder(TextEncoder, Protocol):
    """A text encoder with reproducible vectors and a fingerprint of what they depend on: ``Embedder`` or ``Student``."""

    normalize: bool
    truncated: int

    @property
    def dim(self) -> int: ...
    @property
    def max_tokens(self) -> int | None: ...
    def encode(
        self,
        texts: Sequence[str],
        *,
        language: str | None = None,
        batch_tokens: int | None = None,
        normalize: bool | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray: ...
    def refuse_language(self, language: str | None) -> None: ...
    def fingerprint(self) -> str:
        """Identify the model by content, since a folder keeps its name when it is retrained and changes it when it is moved."""
        ...

    def settings(self) -> dict[str, Any]:
        """Settings that affect the vectors besides the fingerprint."""
        ...


@dataclass(frozen=True, kw_only=True)
class EncodedFile:
    """Result of ``encode_to_file``.

    Attributes:
        path: The file.
        texts: Vectors in the file, one per text.
        dim: Dimension of the vectors.
        truncated: Texts that were truncated at the length limit.
        chunked: Texts whose vector is the mean of their chunks.
        ranges: File with the ranges of int8, needed to decode the vectors; None for other types.
        resumed: Texts whose vectors came from an interrupted run.
        seconds: Encoding time of the other texts, without loading the model.
    """

    path: Path
    texts: int
    dim: int
    truncated: int
    resumed: int
    seconds: float
    chunked: int = 0
    ranges: Path | None = None

    @property
    def texts_per_s(self) -> float:
        return (self.texts - self.resumed) / max(self.seconds, 1e-9)


def encode_to_file(
    embedder: ResumableEncoder,
    texts: Iterable[str],
    path: str | Path,
    *,
    dtype: StoredDtype = "float32",
    dims: int | None = None,
    language: str | None = None,
    normalize: bool | None = None,
    batch_tokens: int | None = None,
    truncation: Truncation = "cut",
    deterministic: bool = False,
    int8_ranges: Int8Ranges | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
    with_texts: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    window_texts: int = 16_384,
    columns: KeptColumns | None = None,
    total: int | None = None,
    progress: Progress | None = None,
) -> EncodedFile:
    """Encode texts, in order, into an npy, parquet or safetensors file.

    Texts are read window by window, and each finished window is kept in the hidden folder ``.NAME.partial`` beside the file. With
    ``resume``, an interrupted run continues from there and produces the same bytes as an uninterrupted run, given the same texts, model
    and settings on the same machine and versions. The file gets its final name once it is complete.

    Args:
        embedder: Computes the vectors.
        texts: Any number of texts, read once. A resumed run needs all of them again, from the first one.
        path: Ends in ``.npy`` (one array), ``.parquet`` (columns ``index`` and ``vector``) or ``.safetensors`` (one tensor, ``vectors``).
        dtype: Data type of the stored vectors; ``int8`` stores each number in 256 steps of its dimension's range and writes the ranges to
            ``NAME.ranges.json`` beside the file; ``binary`` stores the signs, eight per byte, the first in the highest bit.
        dims: Keep only the first numbers of each vector, scaled to length 1 again; default: all.
        language: The texts' language, for a model that is corrected by language.
        normalize: Scale vectors to length 1; default: what the embedder says.
        batch_tokens: Tokens a batch; changes speed and memory only.
        truncation: What to do with texts that are too long; see ``Embedder.encode``.
        deterministic: Same bits for a text whatever its neighbours and the number of threads; see ``Embedder.encode``.
        prompt_name: Name of one of the model's prompts, put before each text; see ``Embedder.encode``.
        prompt: A prompt of your own.
        int8_ranges: Ranges for ``int8``; default: those of the first window's vectors.
        with_texts: Store the texts too, in the column ``text``; parquet only.
        resume: Go on where an interrupted run stopped; or start if there is none.
        overwrite: Replace a file of this name, and, without ``resume``, drop what an interrupted run left.
        window_texts: Texts held in memory and kept at a time; a window also ends at two million characters.
        columns: Columns of the texts' table to store beside the vectors; parquet only. ``texts`` are then ``columns.texts()``.
        total: Number of texts, where it is known, for the progress bar.
        progress: Progress display; advances with every batch.

    Raises:
        UserError: A setting cannot work, the file exists or cannot be written, an interrupted run exists and neither ``resume`` nor
            ``overwrite`` is given, or the interrupted run used other texts, another model or other settings.
    """
    asked = Path(path)
    given = each_text(texts)
    path = followed(asked) if overwrite else asked
    refuse_output(
        path, dtype=dtype, batch_tokens=batch_tokens, with_texts=with_texts, window_texts=window_texts, resume=resume, overwrite=overwrite
    )
    if int8_ranges is not None and dtype != "int8":
        raise UserError(f"int8_ranges are given, but dtype is {dtype!r}: leave them out, or give int8")
    fields = () if columns is None else columns.fields
    refuse_fields(path, [field.name for field in fields], with_texts=with_texts)
    embedder.refuse_language(language)
    if dims is not None and not 1 <= dims <= embedder.dim:
        raise UserError(f"dims is {dims}, but the vectors of {embedder.name!r} have {embedder.dim} numbers: give 1 to {embedder.dim}")
    dim = dims or embedder.dim
    if int8_ranges is not None:
        int8_ranges.refuse_other(dim)
    normalize = embedder.normalize if normalize is None else normalize
    progress = progress or Progress.silent()
    # only what differs from the defaults, so that encoders without these options work too
    options = ({"truncation": truncation} if truncation != "cut" else {}) | ({"deterministic": True} if deterministic else {})
    options |= {option: value for option, value in (("prompt_name", prompt_name), ("prompt", prompt)) if value is not None}
    settings = {"dtype": dtype, "dims": dims, "batch-tokens": batch_tokens, "with-texts": with_texts, "window-texts": window_texts}
    settings |= {option.replace("_", "-"): value for option, value in options.items()}
    settings |= {} if int8_ranges is None else {"int8-ranges": texts_digest("", [int8_ranges.to_json()])}
    settings |= {"columns": [field.name for field in fields]} if fields else {}
    run = _begun(embedder, settings | {"normalise": normalize, "language": language})
    folder = partial_folder(path)
    with _alone_in(folder, path):
        rows = _rows(path, folder, dim=dim, dtype=dtype, with_texts=with_texts, fields=fields)
        if (left := _left_over(folder, rows, run, path) if resume else None) is not None:
            run = left
        elif resume:
            progress.note(f"nothing to resume for {str(path)!r}: starting with the first text")
        _skip_finished(given, run, path, columns)
        coming = windows(given, most=window_texts, characters=_WINDOW_CHARS, text_of=str)
        resumed, began_s = run.texts, time.monotonic()
        try:
            if not resumed:
                _empty(folder)
            with progress.task("encode", total) as task:
                task.advance(resumed)
                with _disk_trouble_named(path, kept=run.windows):
                    rows.open(windows=run.windows, texts=run.texts)
                is_known = True
                ranges = int8_ranges if dtype == "int8" and int8_ranges is not None else _kept_ranges(folder, run)
                for window in coming:
                    if is_known:
                        is_known = check_known(embedder, window, progress=progress) < WARN_FROM
                    try:
                        vectors = embedder.encode(
                            window, language=language, batch_tokens=batch_tokens, normalize=normalize, progress=_PartOfTask(task), **options
                        )
                    except UnusableTextError as error:
                        raise error.after(run.texts) from None
                    vectors = shortened(vectors, dims)
                    _refuse_not_finite(vectors, first_text=run.texts)
                    if dtype == "int8" and ranges is None:
                        ranges = Int8Ranges.calibrated(vectors)
                    stored = _stored(vectors, dtype, first_text=run.texts, ranges=ranges)
                    clipped = 0.0 if ranges is None else ranges.outside(vectors) * len(window)
                    kept = columns.take(len(window)) if columns is not None and fields else []
                    with _disk_trouble_named(path, kept=run.windows):
                        if ranges is not None and not run.windows:
                            _write_anew(folder / _RANGES, ranges.to_json())
                        rows.append(stored, window, kept)
                        chunked = getattr(embedder, "chunked", 0)
                        longer = run.after(window, kept, truncated=embedder.truncated, chunked=chunked, clipped=clipped)
                        _keep(longer, folder)
                    run = longer  # count a window as kept only once it is safely on disk
                with _disk_trouble_named(path, kept=run.windows):
                    whole = rows.finish(texts=run.texts)
                    if ranges is not None:  # first, so that no file of int8 is ever without its ranges
                        is_placed = _holds(ranges_file(path), ranges)  # by a run that was killed before its last step
                        _place(
                            _write_anew(folder / f"{_RANGES}.new", ranges.to_json()), ranges_file(path), overwrite=overwrite or is_placed
                        )
                    _place(whole, path, overwrite=overwrite)
        except BaseException:
            with suppress(OSError):  # a full disk may raise again
                rows.close()
            if run.windows:
                progress.note(f"the vectors of the first {run.texts:,} texts are kept: continue with --resume")
            else:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        seconds = time.monotonic() - began_s
        shutil.rmtree(folder, ignore_errors=True)
    if run.truncated:
        progress.warn(
            f"{run.truncated:,} of {run.texts:,} texts are longer than {embedder.max_tokens} tokens and were truncated:"
            " raise --max-tokens if the model allows it, or split the texts"
        )
    if run.chunked:
        progress.note(
            f"{run.chunked:,} of {run.texts:,} texts are longer than {embedder.max_tokens} tokens: their vectors are means over their chunks"
        )
    if run.clipped > _CLIPPED * run.texts:
        progress.warn(
            f"{run.clipped / run.texts:.0%} of the numbers lie outside of the ranges of int8 and were clipped: calibrate on texts like these"
        )
    return EncodedFile(
        path=asked,
        texts=run.texts,
        dim=dim,
        truncated=run.truncated,
        chunked=run.chunked,
        ranges=None if ranges is None else ranges_file(asked),
        resumed=resumed,
        seconds=seconds,
    )


def ranges_file(path: Path) -> Path:
    """File with the ranges of int8 beside a vector file."""
    return path.with_name(f"{path.name}.ranges.json")


def partial_folder(path: Path) -> Path:
    """Folder that keeps the finished windows of an unfinished file."""
    return path.with_name(f".{path.name}.partial")


def refuse_output(
    path: Path,
    *,
    dtype: str = "float32",
    batch_tokens: int | None = None,
    with_texts: bool = False,
    window_texts: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    inputs: Iterable[str | Path | None] = (),
) -> None:
    """Refuse an output that ``encode_to_file`` could not write, before loading a model; ``inputs`` as in ``refuse_existing``.

    Raises:
        UserError: As ``encode_to_file``.
    """
    shown, ending = repr(str(path)), path.suffix
    path = followed(path) if overwrite else path
    problems = []
    if ending not in ENDINGS:
        has = f"ends in {ending}" if ending else "has no ending"
        problems.append(f"output {shown} {has}, which is not a vector format: use {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    elif ending != ".parquet" and with_texts:
        problems.append(f"texts cannot be stored in a {ending} file, which holds vectors only: use an output ending in .parquet")
    if dtype not in get_args(StoredDtype):
        problems.append(f"dtype is {dtype!r}, which is not supported for stored vectors: give {' or '.join(get_args(StoredDtype))}")
    if batch_tokens is not None and batch_tokens < 1:
        problems.append(f"batch_tokens is {batch_tokens}, but a batch needs at least one token: give 1 or more, or leave it out")
    if window_texts < 1:
        problems.append(f"window_texts is {window_texts}, but a window needs at least one text: give 1 or more")
    refuse_all(problems)
    inputs = list(inputs)
    refuse_existing(path, overwrite=overwrite, inputs=inputs)
    if dtype == "int8" and not (resume and _is_left_by_a_kill(path)):
        refuse_existing(ranges_file(path), overwrite=overwrite, inputs=inputs)
    if path.is_dir():
        raise UserError(f"output {shown} is a folder, but the vectors go into a file: name a file inside it")
    if ending == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise UserError(f'output {shown} needs pyarrow: run pip install "tain[data]", or write .npy or .safetensors') from None
    _refuse_other_writer(path)
    if not resume and not overwrite and (left := _read_state(partial_folder(path), path)) is not None and left.windows:
        raise UserError(
            f"output {shown} belongs to a run that was interrupted after {left.texts:,} texts: "
            "continue with --resume, or start over with --overwrite"
        )


def refuse_fields(path: Path, names: Sequence[str], *, with_texts: bool) -> None:
    """Refuse kept columns that a file of vectors cannot hold.

    Raises:
        UserError: The file is not parquet, or a column is named like one of its own.
    """
    if names and path.suffix != ".parquet":
        raise UserError(f"columns cannot be kept in a {path.suffix} file, which holds vectors only: use an output ending in .parquet")
    if with_texts and "text" in names:
        raise UserError("column 'text' is kept twice, since the texts are stored under this name: keep it, or store the texts, not both")


# ---- state of a run


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Identity and progress of a run.

    Attributes:
        settings: Everything besides texts and model that affects the bytes of the file.
        model: Model name.
        weights: SHA-256 of its weights and tokenizer.
        windows: Finished windows.
        texts: Texts in these windows.
        truncated: Truncated texts among them.
        chunked: Texts among them that were split into chunks.
        clipped: Sum over them of the share of numbers outside of the ranges of int8.
        digest: Chained SHA-256 of these texts.
    """

    settings: dict[str, Any]
    model: str
    weights: str
    windows: int = 0
    texts: int = 0
    truncated: int = 0
    chunked: int = 0
    clipped: float = 0.0
    digest: str = ""
    format: int = _PARTIAL_FORMAT

    def after(self, window: list[str], kept: list[tuple[object, ...]], *, truncated: int, chunked: int, clipped: float) -> "_Run":
        """Return the run with one more finished window."""
        return replace(
            self,
            windows=self.windows + 1,
            texts=self.texts + len(window),
            truncated=self.truncated + truncated,
            chunked=self.chunked + chunked,
            clipped=self.clipped + clipped,
            digest=texts_digest(self.digest, window, kept),
        )


def _begun(embedder: ResumableEncoder, settings: dict[str, Any]) -> _Run:
    return _Run(settings={**settings, **embedder.settings()}, model=embedder.name, weights=embedder.fingerprint())


def texts_digest(before: str, texts: Sequence[str], kept: Sequence[tuple[object, ...]] = ()) -> str:
    """Continue the digest of texts, and of their values of the kept columns."""
    # per text, so that the digest does not depend on window boundaries
    for index, text in enumerate(texts):
        more = f"\0{json.dumps(kept[index], ensure_ascii=False, default=str)}" if kept else ""
        before = hashlib.sha256(f"{before}{text}{more}".encode("utf-8", "surrogatepass")).hexdigest()
    return before


def _read_state(folder: Path, path: Path) -> _Run | None:
    damaged, advice = f"output {str(path)!r} has a damaged state of an interrupted run", "start over with --overwrite and without --resume"
    try:
        content = read_object(folder / _STATE, {}, damaged=damaged, advice=advice)
    except OSError:
        return None
    if content.get("format") != _PARTIAL_FORMAT:
        raise UserError(f"output {str(path)!r} has an interrupted run of another tain version: {advice}")
    checked_object(content, _STATE_FIELDS, damaged=damaged, advice=advice)
    return _Run(**{entry.name: content[entry.name] for entry in fields(_Run)})


def _left_over(folder: Path, rows: Rows, run: _Run, path: Path) -> _Run | None:
    """Read the progress of an interrupted run of the same kind; None if there is nothing to resume.

    Raises:
        UserError: It used another model or other settings.
    """
    left = _read_state(folder, path)
    if left is None or not left.windows:
        return None
    _refuse_other_run(path, left, run)
    # vectors without state are discarded; state without vectors remains after a kill between renaming and cleaning up
    return left if rows.holds(windows=left.windows, texts=left.texts) else None


def _refuse_other_run(path: Path, left: _Run, run: _Run) -> None:
    changed = []
    if left.weights != run.weights:
        changed.append(
            f"model was {left.model!r}, now {run.model!r}" if left.model != run.model else f"the weights of {run.model!r} differ"
        )
    for name in {**left.settings, **run.settings}:
        before, now = left.settings.get(name), run.settings.get(name)
        if before != now:
            changed.append(f"{name} was {_spelled(before)}, now {_spelled(now)}")
    if changed:
        raise UserError(
            f"output {str(path)!r} has an interrupted run with another model or other settings ({'; '.join(changed)}): "
            "give the same again, or start over with --overwrite and without --resume"
        )


def _spelled(value: object) -> str:
    return {"None": "not given", "True": "on", "False": "off"}.get(str(value), str(value))


def _skip_finished(texts: Iterator[str], run: _Run, path: Path, columns: KeptColumns | None) -> None:
    """Skip the texts of the finished windows, and refuse texts that differ."""
    digest, read = "", 0
    for text in islice(texts, run.texts):
        kept = columns.take(1) if columns is not None and columns.fields else []
        digest, read = texts_digest(digest, [text], kept), read + 1
    if (digest, read) != (run.digest, run.texts):
        raise UserError(
            f"output {str(path)!r} has an interrupted run with other texts (the first {run.texts:,} differ): "
            "give the same again, or start over with --overwrite and without --resume"
        )


def _keep(run: _Run, folder: Path) -> None:
    _write_anew(folder / f"{_STATE}.new", json.dumps(asdict(run))).replace(folder / _STATE)


def _write_anew(path: Path, content: str) -> Path:
    path.unlink(missing_ok=True)
    with path.open("x", encoding="utf-8") as file:  # never follow a link
        file.write(content)
        flush(file)
    return path


def _holds(path: Path, ranges: Int8Ranges) -> bool:
    try:
        return path.is_file() and path.read_text(encoding="utf-8") == ranges.to_json()
    except (OSError, ValueError):
        return False


def _is_left_by_a_kill(path: Path) -> bool:
    """Whether the ranges beside a file that does not exist are those of its own interrupted run."""
    kept = partial_folder(path) / _RANGES
    return kept.is_file() and _holds(ranges_file(path), Int8Ranges.load(kept))


# ---- vectors of a window


def _rows(path: Path, folder: Path, *, dim: int, dtype: StoredDtype, with_texts: bool, fields: Sequence[KeptField]) -> Rows:
    """The file's rows, whose bits lie eight in a byte where they are binary."""
    if dtype == "binary":
        return rows_for(path, folder, dim=-(-dim // 8), dtype="uint8", with_texts=with_texts, fields=fields)
    return rows_for(path, folder, dim=dim, dtype=dtype, with_texts=with_texts, fields=fields)


def _refuse_not_finite(vectors: np.ndarray, *, first_text: int) -> None:
    is_finite = np.isfinite(vectors).all(axis=1)
    if not is_finite.all():
        text = first_text + int(np.argmin(is_finite))
        raise UserError(f"the model gives a vector that is not finite for text {text}: its weights are damaged, give another model")


def _stored(vectors: np.ndarray, dtype: StoredDtype, *, first_text: int, ranges: Int8Ranges | None) -> np.ndarray:
    if dtype in ("binary", "int8"):
        return stored_as(vectors, dtype, ranges=ranges)
    with np.errstate(over="ignore"):
        stored = vectors.astype(np.dtype(dtype).newbyteorder("<"), copy=False)
    fits = np.isfinite(stored).all(axis=1)
    if not fits.all():
        text = first_text + int(np.argmin(fits))
        raise UserError(f"the vector of text {text} is too large for {dtype}: use float32, or normalize the vectors")
    return stored


def _kept_ranges(folder: Path, run: _Run) -> Int8Ranges | None:
    """The ranges with which an interrupted run stored its first vectors; None for a new run and other types."""
    return Int8Ranges.load(folder / _RANGES) if run.windows and run.settings["dtype"] == "int8" else None


class _PartOfTask(Progress):
    """Progress adapter that counts the batches of one window towards the task of the whole file."""

    def __init__(self, task: Task) -> None:
        super().__init__("silent")
        self._task = task

    @contextmanager
    def task(self, name: str, total: int | None, *, already: int = 0) -> Iterator[Task]:
        yield self._task


# ---- disk access


@contextmanager
def _alone_in(folder: Path, path: Path) -> Iterator[None]:
    """Create the folder and lock out other processes during the block; the system releases the lock when a process dies."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open_own(folder / _LOCK, writable=True, create=True)
    except OSError as error:
        raise UserError(f"output {str(path)!r} cannot be written ({error.strerror}): choose another path") from None
    with file:
        with suppress(OSError):  # file systems without locks
            if not lock(file):
                raise refusal(path, folder / _LOCK)
        yield


def _refuse_other_writer(path: Path) -> None:
    """Refuse an output that another process is still writing, so that it is not mistaken for an interrupted run."""
    index = partial_folder(path) / _LOCK
    with suppress(OSError), open_own(index, writable=True) as file:
        if not lock(file):
            raise refusal(path, index)


def _empty(folder: Path) -> None:
    # remove the state first, so that a kill in between does not leave it without its vectors
    (folder / _STATE).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.name != _LOCK:
            path.unlink()


def _place(whole: Path, path: Path, *, overwrite: bool) -> None:
    if not overwrite and os.path.lexists(path):
        raise UserError(
            f"output {str(path)!r} was created by something else during the run and is kept: give --resume --overwrite to replace it"
        )
    whole.replace(path)


@contextmanager
def _disk_trouble_named(path: Path, *, kept: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        then = "continue with --resume" if kept else "run the same command again: nothing is kept"
        raise UserError(
            f"output {str(path)!r} cannot be written ({error.strerror or error}): free disk space or repair the disk, then {then}"
        ) from None

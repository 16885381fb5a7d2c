"""Tokenized corpora on disk, memory-mapped and larger than memory if needed.

A folder holds the concatenated ids of all texts, with a separator after each sentence (``tokens-00000.bin``, ...), the starts of
sentences and documents (``sentences.bin``, ``documents.bin``), and a description of the source (``shards.json``). A sentence is one
text as given by the readers: a line of a file, or a cell of a table.
"""

import errno
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
from jaxtyping import Int64, Integer

from tain.batches.tokenizing import bare_ids, fingerprint, separator_id
from tain.foundation.ahead import results_ahead
from tain.foundation.errors import UserError
from tain.foundation.files import open_own, whole_folder
from tain.foundation.json_files import Field, checked_object, read_object
from tain.foundation.progress import Progress
from tain.text.lines import is_stdin
from tain.text.readers import read_sentences
from tain.text.records import Sentence
from tain.text.windows import windows

FORMAT = 1

_FACTS = {
    "tokenizer": Field(kind=str),
    "vocabulary": Field(kind=int, least=1),
    "separator": Field(kind=int, least=0),
    "number_type": Field(kind=str, among=("uint16", "uint32")),
    "tokens": Field(kind=int, least=1),
    "sentences": Field(kind=int, least=1),
    "documents": Field(kind=int, least=1),
    "shards": Field(kind=list, least=1, items=Field(kind=list)),
    "sources": Field(kind=dict, fields={"files": Field(kind=list, items=Field(kind=dict, fields={"name": Field(kind=str)}))}),
}
_SHARD_TOKENS = 2**28  # half a gigabyte per file at two bytes per token
_BATCH_TEXTS = 4096
_BATCH_CHARACTERS = 2_000_000  # ids are Python numbers until they are written: forty bytes per byte of text
_PROBED_BYTES = 2**20  # of a source's start and end: enough to distinguish files without reading them completely
_PLACES = np.dtype(np.int64)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Sources:
    """Text sources, and how to read them.

    Attributes:
        paths: Files or hub data sets, as accepted by ``read_sentences``.
        column: Column of the texts, in tables.
        document_column: Column that identifies the documents of a table.
    """

    paths: tuple[str, ...]
    column: str | None = None
    document_column: str | None = None

    def __post_init__(self) -> None:
        if any(is_stdin(path) for path in self.paths):
            raise UserError("texts are '-' (standard input), which cannot be read a second time: save them to a file first")

    def sentences(self) -> Iterator[Sentence]:
        """Read all sources in order; documents do not continue across sources."""
        for path in self.paths:
            try:
                yield from read_sentences(path, column=self.column, document_column=self.document_column)
            except OSError as error:
                raise UserError(f"{path!r} could not be read completely ({error.strerror}): check the disk or give a copy") from error

    def texts(self) -> Iterator[str]:
        return (sentence.text for sentence in self.sentences())

    def facts(self) -> dict[str, Any]:
        """Identity of the sources: names, sizes, and a digest of each file's first and last megabyte."""
        return {
            "files": [_facts_of(path) for path in self.paths],
            "column": self.column,
            "document_column": self.document_column,
        }


class TokenStream:
    """Concatenated ids of all texts, read from one or more files like a single array.

    Slices (without a step) are NumPy arrays; slices within one file are not copied.
    """

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = list(parts)
        self.dtype = self.parts[0].dtype
        self._begins = np.cumsum([0, *map(len, self.parts)])

    def __len__(self) -> int:
        return int(self._begins[-1])

    def __getitem__(self, indices: slice) -> np.ndarray:
        start, stop, _ = indices.indices(len(self))
        first = int(np.searchsorted(self._begins, start, side="right")) - 1
        pieces = []
        for number in range(first, len(self.parts)):
            begin = int(self._begins[number])
            if begin >= stop:
                break
            pieces.append(self.parts[number][max(start - begin, 0) : stop - begin])
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty(0, dtype=self.dtype)


class Sentences(Sequence[np.ndarray]):
    """Ids of each sentence without special tokens, read on access."""

    def __init__(self, tokens: TokenStream, starts: np.ndarray) -> None:
        self._tokens = tokens
        self._starts = starts  # one more than the number of sentences

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> Integer[np.ndarray, " tokens"]: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"there is no sentence {index}: there are {len(self)}")
        return self._tokens[int(self._starts[number]) : int(self._starts[number + 1]) - 1]  # the last id is the separator

    def lengths(self) -> Int64[np.ndarray, " sentences"]:
        """Tokens per sentence."""
        return np.diff(self._starts) - 1


@dataclass(frozen=True)
class Shards:
    """A folder of tokenized text.

    Attributes:
        folder: Path of the folder.
        tokens: All ids in reading order, with a separator after each sentence.
        sentences: Ids per sentence, without special tokens.
        document_starts: Indices in ``sentences`` at which documents begin, ascending from 0.
        separator: Id after each sentence.
        facts: Content of ``shards.json``.
    """

    folder: Path
    tokens: TokenStream
    sentences: Sentences
    document_starts: Int64[np.ndarray, " documents"]
    separator: int
    facts: dict[str, Any]

    @cached_property
    def documents(self) -> int:
        return len(self.document_starts)


def tokenised(
    folder: Path, sources: Sources, tokenizer: Any, *, progress: Progress | None = None, shard_tokens: int = _SHARD_TOKENS
) -> Shards:
    """Open a folder of shards, or create it from the sources.

    Args:
        folder: Folder of the shards.
        sources: The texts.
        tokenizer: A transformers tokenizer.
        progress: Receives an update per batch of sentences.
        shard_tokens: Largest number of tokens per file.

    Raises:
        UserError: The folder holds something else, incomplete shards, or shards of another tokenizer or other texts; a source
            cannot be read; or the disk is full. No partial result remains.
    """
    if not folder.exists():
        _write(folder, sources, tokenizer, progress or Progress.silent(), shard_tokens)
    shards = open_shards(folder)
    if shards.facts["tokenizer"] != fingerprint(tokenizer):
        raise UserError(
            f"shards {str(folder)!r} were made with another tokenizer ({shards.facts['vocabulary']:,} tokens; this one has"
            f" {len(tokenizer):,}): name another folder, or remove this one"
        )
    if shards.facts["sources"] != sources.facts():
        names = ", ".join(entry["name"] for entry in shards.facts["sources"]["files"])
        raise UserError(
            f"shards {str(folder)!r} were made from other texts or columns (from {names}): name another folder, or remove this one"
        )
    return shards


def open_shards(folder: Path) -> Shards:
    """Open a folder of shards without checking its texts and tokenizer.

    Raises:
        UserError: The folder holds no shards, or incomplete ones.
    """
    damaged, advice = f"shards {str(folder)!r} have a damaged shards.json", "remove them to rebuild them"
    try:
        facts = read_object(folder / "shards.json", {}, damaged=damaged, advice=advice)
    except OSError:
        raise UserError(f"{str(folder)!r} holds no finished shards (shards.json is missing): remove it, or name another") from None
    if facts.get("format") != FORMAT:
        raise UserError(
            f"shards {str(folder)!r} have format {facts.get('format')}, but this tain reads {FORMAT}: remove them to rebuild them"
        )
    checked_object(facts, _FACTS, damaged=damaged, advice=advice)
    if not all(len(entry) == 2 and _is_shard(*entry) for entry in facts["shards"]):
        raise UserError(f"{damaged}: {advice} (shards are {facts['shards']!r:.60})")
    dtype = np.dtype(facts["number_type"])
    parts = [_mapped(folder / name, dtype, length) for name, length in facts["shards"]]
    tokens = TokenStream(parts)
    starts = _mapped(folder / "sentences.bin", _PLACES, facts["sentences"] + 1)
    document_starts = _mapped(folder / "documents.bin", _PLACES, facts["documents"])
    if int(starts[0]) != 0 or int(starts[-1]) != len(tokens) or (np.diff(starts) < 1).any():
        raise UserError(f"shards {str(folder)!r} are damaged: {advice} (sentences.bin has invalid sentence starts)")
    if int(document_starts[0]) != 0 or int(document_starts[-1]) >= facts["sentences"] or (np.diff(document_starts) < 1).any():
        raise UserError(f"shards {str(folder)!r} are damaged: {advice} (documents.bin has invalid document starts)")
    return Shards(folder, tokens, Sentences(tokens, starts), document_starts, facts["separator"], facts)


def _is_shard(name: object, tokens: object) -> bool:
    is_count = isinstance(tokens, int) and not isinstance(tokens, bool) and tokens > 0
    return isinstance(name, str) and re.fullmatch(r"tokens-\d{5,}\.bin", name) is not None and is_count


def token_batches(
    sentences: Iterable[Sentence], tokenizer: Any, *, batch_texts: int = _BATCH_TEXTS
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Tokenize sentences in batches; the next batch is tokenized on other cores while the caller processes the current one.

    Yields:
        Concatenated ids of the batch's sentences with a separator after each; the tokens per sentence, including the separator;
            and whether each sentence begins a document.
    """
    separator = separator_id(tokenizer)
    dtype = dtype_for(len(tokenizer))

    def cut(batch: list[Sentence]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = bare_ids(tokenizer, [sentence.text for sentence in batch])
        for row in rows:
            row.append(separator)
        lengths = np.fromiter(map(len, rows), dtype=_PLACES, count=len(rows))
        ids = np.fromiter(chain.from_iterable(rows), dtype=dtype, count=int(lengths.sum()))
        return ids, lengths, np.array([sentence.begins_document for sentence in batch])

    batches = windows(sentences, most=batch_texts, characters=_BATCH_CHARACTERS, text_of=lambda sentence: sentence.text)
    yield from results_ahead((partial(cut, batch) for batch in batches), threads=1, ahead=1)


def dtype_for(vocabulary: int) -> np.dtype:
    """Smallest shard data type that can hold every id."""
    return np.dtype(np.uint16 if vocabulary <= 2**16 else np.uint32)


def _write(folder: Path, sources: Sources, tokenizer: Any, progress: Progress, shard_tokens: int) -> None:
    with _clear_of_disk_errors(folder), whole_folder(folder) as partial, _clear_of_disk_errors(folder):
        with closing(_Writer(partial, dtype_for(len(tokenizer)), shard_tokens)) as writer, progress.task("tokenise", None) as task:
            for ids, lengths, begins_document in token_batches(sources.sentences(), tokenizer):
                writer.add(ids, lengths, begins_document)
                task.advance(len(lengths), tokens=float(writer.tokens))
        facts = {
            "format": FORMAT,
            "tokenizer": fingerprint(tokenizer),
            "vocabulary": len(tokenizer),
            "separator": separator_id(tokenizer),
            "number_type": writer.dtype.name,
            "tokens": writer.tokens,
            "sentences": writer.sentences,
            "documents": writer.documents,
            "shards": writer.shards,
            "sources": sources.facts(),
        }
        (partial / "shards.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _clear_of_disk_errors(folder: Path) -> Iterator[None]:
    """Convert disk errors into a one-line ``UserError``; the incomplete folder is removed before."""
    try:
        yield
    except OSError as error:
        room = "free disk space, or " if error.errno in _NO_ROOM else ""
        raise UserError(
            f"shards cannot be written to {str(folder)!r} ({error.strerror}), and were removed:"
            f" {room}name a folder on another disk with --shards"
        ) from error


class _Writer:
    """Appends batches of tokens to files of limited length."""

    def __init__(self, folder: Path, dtype: np.dtype, shard_tokens: int) -> None:
        self.folder, self.dtype, self.shard_tokens = folder, dtype, shard_tokens
        self.shards: list[tuple[str, int]] = []
        self.tokens = self.sentences = self.documents = 0
        self._starts = (folder / "sentences.bin").open("wb")
        self._documents = (folder / "documents.bin").open("wb")
        self._shard: IO[bytes] | None = None
        self._starts.write(_PLACES.type(0).tobytes())

    def add(self, ids: np.ndarray, lengths: np.ndarray, begins_document: np.ndarray) -> None:
        self._starts.write((self.tokens + lengths.cumsum()).tobytes())
        begins = np.flatnonzero(begins_document) + self.sentences
        self._documents.write(begins.astype(_PLACES).tobytes())
        self.sentences += len(lengths)
        self.documents += len(begins)
        self.tokens += len(ids)
        while len(ids):
            room = self._room()
            self._append(ids[:room])
            ids = ids[room:]

    def close(self) -> None:
        with ExitStack() as files:  # closes all files, even if closing one fails on a full disk
            for file in (self._starts, self._documents, self._shard):
                if file is not None:
                    files.enter_context(file)

    def _room(self) -> int:
        """Number of tokens that the current file still takes; starts a new file if it is full."""
        if self._shard is None or self.shards[-1][1] == self.shard_tokens:
            if self._shard is not None:
                self._shard.close()
            name = f"tokens-{len(self.shards):05d}.bin"
            self._shard = (self.folder / name).open("wb")
            self.shards.append((name, 0))
        return self.shard_tokens - self.shards[-1][1]

    def _append(self, ids: np.ndarray) -> None:
        assert self._shard is not None
        self._shard.write(ids.tobytes())
        name, length = self.shards[-1]
        self.shards[-1] = (name, length + len(ids))


def _mapped(path: Path, dtype: np.dtype, length: int) -> np.ndarray:
    wanted = length * dtype.itemsize
    found = path.stat().st_size if path.exists() else 0
    if found != wanted or not length:
        raise UserError(f"shards file {str(path)!r} has {found:,} bytes instead of {wanted:,}: remove its folder to rebuild it")
    with open_own(path) as file:
        return np.memmap(file, dtype=dtype, mode="r", shape=(length,))


def _facts_of(path: str) -> dict[str, Any]:
    file = Path(path)
    if not file.is_file():
        return {"name": path}
    size = file.stat().st_size
    digest = hashlib.sha256()
    with file.open("rb") as source:
        digest.update(source.read(_PROBED_BYTES))
        source.seek(max(0, size - _PROBED_BYTES))
        digest.update(source.read(_PROBED_BYTES))
    return {"name": file.name, "bytes": size, "digest": digest.hexdigest()[:16]}

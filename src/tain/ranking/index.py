"""Candidate index on disk: memory-mapped vectors with cheap appends and deletions, bound to the model that made them.

A folder of append-only files. Data is written first, then a fixed-length commit in ``commits.bin`` with the valid length of each file:
data covered by a commit is durable, data after the last complete commit is ignored. Opening reads the last commit and checks the small
files: text ends, deleted rows, squared lengths. Vectors are checked against their squared lengths when first searched, texts against
their keys when read. Readers keep their view while a writer appends.

    index.json     format, dimension, fingerprint and name of the model
    vectors.bin    float32 rows           squares.bin   squared length of each row
    texts.bin      UTF-8, concatenated    ends.bin      end of each text
    keys.bin       64-bit key per text    gone.bin      deleted rows
    commits.bin    the log                source.json   the synchronized candidate file, if any, and whether the sync was completed

An index of format 2 has ids and metadata as well. Replacing a candidate appends its new row and deletes its old one in one commit.
Compacting writes a new folder and puts it in the place of the old one; processes that wait for a lock notice that.

    ids.bin        UTF-8, concatenated    id_ends.bin, metadata_ends.bin    end of each
    metadata.bin   a JSON object a row    id_keys.bin, metadata_keys.bin    64-bit key of each
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tain.foundation.errors import UserError
from tain.foundation.files import open_own, refuse_link, whole_file, whole_folder
from tain.foundation.json_files import Field, checked_object, read_object
from tain.foundation.locks import is_at
from tain.ranking.commits import LAYOUTS, LOG, State
from tain.ranking.filters import Filter, parse_filter
from tain.text.collections import list_texts
from tain.text.records import Candidate

Found = TypeVar("Found")

FORMAT = max(LAYOUTS)

SHORT_LISTS, FOUND_WEIGHT = "short.faiss", "fusion.json"  # made from an index and kept in its folder
_OWN = {
    "index.json",
    "source.json",
    "lock",
    "update.lock",
    SHORT_LISTS,
    FOUND_WEIGHT,
    *(file for each in LAYOUTS.values() for file in each.files),
}
_PARTIAL = re.compile(r"\.(.+)\.partial-[0-9a-f]{8}")

_MOST_SHOWN = 1_000  # characters of a name in a message
_CHECKED_ROWS = 65_536  # vectors read at a time
_ROUNDING = 1e-4  # of a squared length, depending on the order of summation
_ABOUT = {
    "format": Field(kind=int, least=1),
    "dim": Field(kind=int, least=1, most=2**20),
    "fingerprint": Field(kind=str),
    "model": Field(kind=str),
}
_SOURCE = {
    "name": Field(kind=str),
    "digest": Field(kind=str),
    "complete": Field(kind=bool),
    "searchable": Field(kind=bool, is_needed=False),
}


class CandidateIndex:
    """View of an index as of its last commit when it was opened or refreshed.

    Args:
        folder: Folder of the index.
        about: Content of ``index.json``.
        state: Valid lengths of the files.

    Attributes:
        vectors: Float32 (rows, dim), memory-mapped; writes to it stay in memory.
        squares: Squared length of each vector, float32 (rows,), memory-mapped.

    Examples:
        >>> import tain
        >>> encoder = tain.load("tain-mini")
        >>> texts = ["rivers run to the sea", "a red door", "glass is made of sand"]
        >>> index = tain.CandidateIndex.create("texts.index", dim=encoder.dim, fingerprint="mine", model="tain-mini")
        >>> index.append(texts, encoder.encode(texts))
        range(0, 3)
        >>> index.delete_texts(["a red door"])
        1
        >>> tain.CandidateIndex.open("texts.index").live
        2
    """

    def __init__(self, folder: Path, about: dict[str, Any], state: State) -> None:
        self.folder = folder
        self.about = about
        self.dim: int = about["dim"]
        self._layout = LAYOUTS[about["format"]]
        self._checked = 0  # rows with checked vectors
        self._place: tuple[int, int] | None = None
        self._show(state)
        self._refuse_damage()

    @classmethod
    def create(
        cls, folder: str | Path, *, dim: int, fingerprint: str, model: str, has_metadata: bool = False, overwrite: bool = False
    ) -> "CandidateIndex":
        """Create an empty index.

        Args:
            folder: Target folder; written atomically.
            dim: Dimension of the vectors.
            fingerprint: Fingerprint of the model.
            model: The model's name, for messages.
            has_metadata: Let candidates have ids and metadata.
            overwrite: Replace an existing folder.

        Raises:
            UserError: As ``whole_folder``.
        """
        with whole_folder(Path(folder), overwrite=overwrite) as partial:
            layout = LAYOUTS[2 if has_metadata else 1]
            about = {"format": layout.format, "kind": "candidate index", "dim": dim, "fingerprint": fingerprint, "model": model}
            (partial / "index.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
            for file in layout.files:
                (partial / file).touch()
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | Path) -> "CandidateIndex":
        """Open an index. Reads its last commit and 12 bytes per candidate, 28 if it has metadata.

        Raises:
            UserError: The index does not exist, has a newer format, has inconsistent files, or a file is a link.
        """
        return _undisturbed(Path(folder), cls._opened)

    @classmethod
    def _opened(cls, folder: Path) -> "CandidateIndex":
        damaged, advice = f"index {str(folder)!r} has a damaged index.json", "make the index again"
        try:
            refuse_link(folder / "index.json")
            about = read_object(folder / "index.json", {}, damaged=damaged, advice=advice)
        except (FileNotFoundError, NotADirectoryError):
            if folder.exists():
                raise UserError(f"index {str(folder)!r} exists, but holds no index: give another name, or remove it") from None
            raise UserError(f"index {str(folder)!r} does not exist: make it by giving --candidates FILE with it") from None
        except OSError as error:
            raise UserError(f"{damaged}: {advice} ({error.strerror})") from None
        if about.get("kind") != "candidate index":
            raise UserError(
                f"index {str(folder)!r} has an index.json that was not written by tain: give the folder of an index, or a new one"
            )
        number = about.get("format")
        if isinstance(number, int) and number > FORMAT:
            raise UserError(f"index {str(folder)!r} is of a format that this tain does not read ({FORMAT}): upgrade tain, or make it again")
        checked_object(about, _ABOUT, damaged=damaged, advice=advice)
        return cls(folder, about, LAYOUTS[about["format"]].last_state(folder, about["dim"])[0])

    def refuse_other_model(self, fingerprint: str, name: str) -> None:
        """Refuse a model, or version of a model, that did not make these vectors.

        Raises:
            UserError: The fingerprints differ.
        """
        if fingerprint != self.about["fingerprint"]:
            was = self.about["model"][:_MOST_SHOWN]  # the folder may come from someone else
            is_same_place = was == name or (os.path.exists(was) and Path(was).resolve() == Path(name).resolve())  # noqa: PTH110 - unlike Path.exists, never raises
            which = "another version of this model" if is_same_place else f"another model, {was!r}"
            raise UserError(
                f"index {str(self.folder)!r} was made by {which} (fingerprint {self.about['fingerprint'][:_MOST_SHOWN]}; {name!r} has {fingerprint}), "
                "so its vectors are not comparable: make a new index with this model"
            )

    def __len__(self) -> int:
        """Number of rows, including deleted ones."""
        return self._state.rows

    def committed_rows(self) -> int:
        """Current number of rows in the folder; higher than in this view if a writer has appended since."""
        return self._layout.last_state(self.folder, self.dim)[0].rows

    @property
    def version(self) -> int:
        """Number of the commit that this view shows; it grows with every change."""
        return self._state.number

    @property
    def live(self) -> int:
        """Number of candidates that are not deleted."""
        return self._state.rows - self._state.deleted

    @cached_property
    def is_deleted(self) -> np.ndarray:
        """True for deleted rows (rows,)."""
        deleted = np.zeros(self._state.rows, dtype=bool)
        deleted[self._deleted] = True
        return deleted

    @property
    def has_metadata(self) -> bool:
        """True if candidates have ids and metadata."""
        return self._layout.has_metadata

    def text(self, row: int) -> str:
        """Text of a candidate."""
        found = _part(self._texts, self._ends, row)
        if _key(found) != int(self._keys[row]):
            raise self._damage(f"the text of row {row} differs from the stored key")
        return found.decode("utf-8")

    def id(self, row: int) -> str | None:
        """Id of a candidate; None if it has none."""
        if not self.has_metadata:
            return None
        found = _part(self._ids, self._id_ends, row)
        if _key(found or self.text(row).encode()) != int(self._id_keys[row]):
            raise self._damage(f"the id of row {row} differs from the stored key")
        return found.decode("utf-8") or None

    def metadata(self, row: int) -> dict[str, Any]:
        """Metadata of a candidate; empty if it has none."""
        if not self.has_metadata:
            return {}
        found = _part(self._metadata, self._metadata_ends, row)
        return self._parsed(found, _key(found), row)

    def candidate(self, row: int) -> Candidate:
        """Text, id and metadata of a candidate."""
        return Candidate(self.text(row), self.id(row), self.metadata(row))

    def _parsed(self, content: bytes, key: int, row: int) -> dict[str, Any]:
        if key != int(self._metadata_keys[row]):
            raise self._damage(f"the metadata of row {row} differs from the stored key")
        try:
            found = json.loads(content) if content else {}
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self._damage(f"the metadata of row {row} is not a JSON object")
        return found

    def matching(self, filter: str | Filter) -> np.ndarray:
        """Find the candidates whose metadata match a filter.

        Args:
            filter: As ``filters.parse_filter`` reads it, or a parsed one.

        Returns:
            True for each live row that matches (rows,).

        Raises:
            UserError: The filter is invalid, or the index has no metadata.
        """
        self.refuse_without_metadata()
        chosen = filter if isinstance(filter, Filter) else parse_filter(filter)
        is_match = np.zeros(self._state.rows, dtype=bool)
        answers: dict[bytes, tuple[int, bool]] = {}  # many candidates have the same metadata
        for row in np.flatnonzero(~self.is_deleted).tolist():
            content = _part(self._metadata, self._metadata_ends, row)
            if content not in answers:
                key = _key(content)
                answers[content] = (key, chosen.matches(self._parsed(content, key, row)))
            key, is_match[row] = answers[content]
            if key != int(self._metadata_keys[row]):
                raise self._damage(f"the metadata of row {row} differs from the stored key")
        return is_match

    def fields(self) -> list[str]:
        """Names in the metadata of live candidates, in alphabetical order."""
        contents = {_part(self._metadata, self._metadata_ends, row): row for row in np.flatnonzero(~self.is_deleted).tolist()}
        return sorted({name for content, row in contents.items() for name in self._parsed(content, _key(content), row)})

    def refuse_without_metadata(self) -> None:
        """Refuse an index whose candidates have no ids and metadata.

        Raises:
            UserError: It was made without.
        """
        if not self.has_metadata:
            raise UserError(
                f"index {str(self.folder)!r} was made without ids and metadata: make a new one with tain rank index, or with has_metadata=True"
            )

    def live_texts(self) -> Iterator[tuple[int, str]]:
        """Rows and texts of the candidates that are not deleted."""
        for row in np.flatnonzero(~self.is_deleted):
            yield int(row), self.text(int(row))

    def rows_of(self, texts: Iterable[str]) -> list[int | None]:
        """Live rows of texts; None for a missing text. Takes one pass over the keys, 8 bytes per candidate."""
        texts = list_texts(texts)
        row_of = {text: row for row, text in self._live_rows(texts)}
        return [row_of.get(text) for text in texts]

    def rows_of_ids(self, ids: Iterable[str]) -> list[int | None]:
        """Live rows of ids; None for a missing id. A candidate without an id has its text as id.

        Raises:
            UserError: The index has no ids.
        """
        self.refuse_without_metadata()
        ids = list_texts(ids, what="id")
        row_of = {given: row for row, given in self._live_rows_of_ids(ids)}
        return [row_of.get(each) for each in ids]

    def _live_rows_of_ids(self, ids: Sequence[str]) -> Iterator[tuple[int, str]]:
        wanted = np.array(sorted({_key(each.encode("utf-8")) for each in ids}), dtype=np.uint64)
        known = set(ids)
        for row in np.flatnonzero(np.isin(self._id_keys, wanted) & ~self.is_deleted):
            found = self.id(int(row)) or self.text(int(row))
            if found in known:
                yield int(row), found

    def _live_rows(self, texts: Sequence[str]) -> Iterator[tuple[int, str]]:
        """All live rows of these texts."""
        wanted = np.array(sorted({_key(text.encode("utf-8")) for text in texts}), dtype=np.uint64)
        known = set(texts)
        for row in np.flatnonzero(np.isin(self._keys, wanted) & ~self.is_deleted):
            text = self.text(int(row))
            if text in known:  # another text may have the same key
                yield int(row), text

    def refresh(self) -> bool:
        """Update the view to the latest commit; True if there was a newer one."""
        return _undisturbed(self.folder, self._refreshed)

    def _refreshed(self, folder: Path) -> bool:
        state, _ = self._layout.last_state(folder, self.dim)
        if state == self._state:
            return False
        self._show(state)
        self._refuse_damage()
        return True

    def append(self, texts: Iterable[str], vectors: np.ndarray, *, only_new: bool = False) -> range:
        """Append candidates; they are durable when this returns.

        Args:
            texts: Candidate texts.
            vectors: Candidate vectors (texts, dim).
            only_new: Skip texts that the index already holds, possibly added by another writer.

        Returns:
            The added rows.

        Raises:
            UserError: The vectors have another dimension, are not finite, or their number differs from the texts; or a text is no
                valid Unicode.
        """
        texts = list_texts(texts)
        _refuse_surrogates(texts)
        added = self.storable(vectors, len(texts))
        with self._writing() as (state, files):
            if only_new:
                self._show(state)
                first = {text: position for position, text in reversed(list(enumerate(texts)))}
                chosen = [
                    position for position, row in enumerate(self.rows_of(texts)) if row is None and first[texts[position]] == position
                ]
                texts, added = [texts[position] for position in chosen], added[chosen]
            after = self._written(files, state, [Candidate(text) for text in texts], added)
            self._commit(files, after)
        return range(state.rows, after.rows)

    def upsert(self, candidates: Sequence[Candidate], vectors: np.ndarray) -> tuple[int, int]:
        """Add candidates with ids and metadata, and replace those whose ids the index holds; durable when this returns.

        A candidate without an id is identified by its text. New rows and the deletion of the replaced ones are one commit: readers
        see all of it or nothing.

        Args:
            candidates: Candidates with different ids.
            vectors: Their vectors (candidates, dim).

        Returns:
            Number of added and of replaced candidates.

        Raises:
            UserError: As ``append``; or an id occurs twice or is blank, metadata are no JSON, or the index has no metadata.
        """
        self.refuse_without_metadata()
        candidates = list(candidates)
        refuse_unstorable(candidates)
        added = self.storable(vectors, len(candidates))
        with self._writing() as (state, files):
            self._show(state)
            replaced = [row for row, _ in self._live_rows_of_ids([each.identity for each in candidates])]
            after = self._written(files, state, candidates, added)
            self._mark_deleted(replaced, after, files)
        return len(candidates) - len(replaced), len(replaced)

    def storable(self, vectors: np.ndarray, count: int) -> np.ndarray:
        """Vectors (texts, dim) as float32.

        Raises:
            UserError: They cannot be stored: another shape or number, nan or infinity, or too long for float32.
        """
        vectors = np.asarray(vectors)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise UserError(
                f"vectors are of shape {vectors.shape}, but index {str(self.folder)!r} holds vectors of dimension {self.dim}: "
                "give vectors of the model that made the index"
            )
        if len(vectors) != count:
            raise UserError(f"{count:,} texts were given with {len(vectors):,} vectors: give one per text")
        if not np.isfinite(vectors).all():
            raise UserError("vectors contain nan or infinity, which cannot be scored: check the model's weights")
        added = np.ascontiguousarray(vectors, dtype=np.float32)
        if not np.isfinite(_squares(added)).all():
            raise UserError("vectors are too long: their squared length overflows float32: scale them down")
        return added

    def _written(self, files: dict[str, Any], state: State, candidates: Sequence[Candidate], vectors: np.ndarray) -> State:
        """Write rows behind the last commit, and give the state that a commit will make valid."""
        files["vectors.bin"].write(vectors.tobytes())
        files["squares.bin"].write(_squares(vectors).tobytes())
        text_bytes = _write_parts(files, ("texts.bin", "ends.bin"), [each.text.encode("utf-8") for each in candidates], state.text_bytes)
        files["keys.bin"].write(_keys([each.text for each in candidates]))
        id_bytes = metadata_bytes = 0
        if self.has_metadata:
            ids = [(each.id or "").encode("utf-8") for each in candidates]
            id_bytes = _write_parts(files, ("ids.bin", "id_ends.bin"), ids, state.id_bytes)
            files["id_keys.bin"].write(_keys([each.identity for each in candidates]))
            metadata = [encoded_metadata(each) for each in candidates]
            metadata_bytes = _write_parts(files, ("metadata.bin", "metadata_ends.bin"), metadata, state.metadata_bytes)
            files["metadata_keys.bin"].write(_keys(metadata))
        return State(state.rows + len(candidates), text_bytes, state.deleted, state.number + 1, id_bytes, metadata_bytes)

    def delete(self, rows: Sequence[int]) -> int:
        """Delete candidates; the deletion is durable when this returns. Rows are never reused, except by ``compact``.

        Returns:
            Number of rows that were live.

        Raises:
            UserError: A row does not exist, or the index was compacted after this view.
        """
        with self._writing() as (state, files):
            self.refuse_compacted()
            wrong = [row for row in rows if not 0 <= row < state.rows]
            if wrong:
                raise UserError(f"index {str(self.folder)!r} has no row {wrong[0]}: it has {state.rows:,}")
            self._show(state)
            return self._mark_deleted(rows, replace(state, number=state.number + 1), files)

    def delete_texts(self, texts: Iterable[str]) -> int:
        """Delete texts from all their rows; the deletion is durable when this returns.

        Returns:
            Number of deleted rows.
        """
        texts = list_texts(texts)
        with self._writing() as (state, files):
            self._show(state)
            rows = [row for row, _ in self._live_rows(texts)]
            return self._mark_deleted(rows, replace(state, number=state.number + 1), files)

    def delete_ids(self, ids: Iterable[str]) -> int:
        """Delete candidates by id; the deletion is durable when this returns.

        Returns:
            Number of deleted candidates.

        Raises:
            UserError: The index has no ids.
        """
        self.refuse_without_metadata()
        ids = list_texts(ids, what="id")
        with self._writing() as (state, files):
            self._show(state)
            rows = [row for row, _ in self._live_rows_of_ids(ids)]
            return self._mark_deleted(rows, replace(state, number=state.number + 1), files)

    def delete_matching(self, filter: str | Filter) -> int:
        """Delete the candidates whose metadata match a filter; the deletion is durable when this returns.

        Returns:
            Number of deleted candidates.

        Raises:
            UserError: As ``matching``.
        """
        self.refuse_without_metadata()
        chosen = filter if isinstance(filter, Filter) else parse_filter(filter)
        with self._writing() as (state, files):
            self._show(state)
            rows = np.flatnonzero(self.matching(chosen)).tolist()
            return self._mark_deleted(rows, replace(state, number=state.number + 1), files)

    def _mark_deleted(self, rows: Sequence[int], state: State, files: dict[str, Any]) -> int:
        """Write deletions, and commit them with a new state."""
        live = sorted({row for row in rows if not self.is_deleted[row]})
        files["gone.bin"].write(np.array(live, dtype=np.int64).tobytes())
        self._commit(files, replace(state, deleted=state.deleted + len(live)))
        return len(live)

    def compact(self) -> int:
        """Rewrite the index without the rows of deleted and replaced candidates; it is durable when this returns.

        The remaining candidates keep their order and get new row numbers. Readers keep their view until they refresh. Needs space for a
        second index meanwhile. If the process is killed, the index is unchanged. Files in the folder that are not of the index are kept.

        Returns:
            Number of rows that were removed.

        Raises:
            UserError: A candidate is damaged, or the index cannot be written.
        """
        with self.updating(), self._writing() as (state, _):
            self._show(state)
            live = np.flatnonzero(~self.is_deleted)
            if len(live) == state.rows:
                return 0
            with whole_folder(self.folder, overwrite=True, replaced=_is_own) as partial:
                for name in ("index.json", "source.json"):
                    if (self.folder / name).exists():
                        (partial / name).write_bytes((self.folder / name).read_bytes())
                after = self._copied(live, partial, number=state.number + 1)
            self._show(after)
        return state.rows - len(live)

    def refuse_compacted(self) -> None:
        """Refuse row numbers of this view if the index was compacted, or made again, since.

        Raises:
            UserError: It was.
        """
        if _place(self.folder) != self._place:
            raise UserError(
                f"index {str(self.folder)!r} was rewritten meanwhile, so its rows have other numbers: refresh it, and try again"
            )

    def _copied(self, rows: np.ndarray, folder: Path, *, number: int) -> State:
        """Write rows to the files of a new folder, and commit them."""
        after = State()
        with ExitStack() as opened:
            files = {file: opened.enter_context((folder / file).open("wb")) for file in self._layout.files}
            for start in range(0, len(rows), _CHECKED_ROWS):
                part = rows[start : start + _CHECKED_ROWS]
                self.refuse_damaged_vectors(part)
                after = self._written(files, after, [self.candidate(int(row)) for row in part], np.array(self.vectors[part]))
            after = replace(after, number=number)
            self._log(files, after)
        return after

    @property
    def source(self) -> dict[str, Any]:
        """Record written by ``tell_source``; empty if there is none."""
        path = self.folder / "source.json"
        refuse_link(path)
        if not path.exists():
            return {}
        damaged = f"index {str(self.folder)!r} has a damaged source.json"
        return read_object(path, _SOURCE, damaged=damaged, advice=f"remove that file and {self.how_to_add}")

    def tell_source(self, *, name: str, digest: str, is_complete: bool) -> None:
        """Record the candidate file that the index is synchronized with. Searchable candidates stay searchable."""
        content = {"name": name, "digest": digest, "complete": is_complete, "searchable": is_complete or self.is_searchable}
        with whole_file(self.folder / "source.json", overwrite=True, follow=False) as path:
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @property
    def how_to_add(self) -> str:
        """How to add candidates on the command line, for messages; only ``tain rank index`` keeps ids and metadata."""
        return "run tain rank index with --candidates FILE" if self.has_metadata else "give --candidates FILE with --update"

    @property
    def is_complete(self) -> bool:
        """False if a synchronization was interrupted, or nothing was ever added."""
        return self.source.get("complete", len(self) > 0)

    @property
    def is_searchable(self) -> bool:
        """False until the first candidate file is complete; a running or interrupted update does not change it."""
        return self.is_complete or self.source.get("searchable", False)

    def refuse_unfinished(self) -> None:
        """Refuse to search an index while its first candidate file is incomplete.

        Raises:
            UserError: It is incomplete.
        """
        if self.source and not self.is_searchable:
            name = self.source["name"]
            how = "run tain rank index with" if self.has_metadata else "give"
            raise UserError(
                f"index {str(self.folder)!r} lacks candidates: adding those of {name!r} is not finished; wait for the process that adds them, "
                f"or, if it was interrupted, {how} --candidates {name} to continue"
            )

    def refuse_half_built(self, *, digest: str) -> None:
        """Refuse to add other candidates than those that an interrupted first build was adding: half of them would become searchable.

        Args:
            digest: Of all candidates that are to be added.

        Raises:
            UserError: The first build was interrupted, and was adding others.
        """
        if len(self) and self.source and not self.is_searchable and self.source["digest"] != digest:
            name = self.source["name"]
            raise UserError(
                f"index {str(self.folder)!r} holds only a part of {name!r}, because adding it was interrupted: finish that first, with --candidates {name}"
                " and the same columns, or give --delete-missing to hold these candidates alone"
            )

    def refuse_changed_source(self, *, name: str, digest: str) -> None:
        """Refuse a candidate file with other content than was indexed.

        Raises:
            UserError: The content differs, or the index was not made from a file.
        """
        if not self.source:
            raise UserError(
                f"index {str(self.folder)!r} was not made from a file: "
                f"give --update to make it hold exactly the candidates of {name!r}, or remove --candidates"
            )
        if self.source["digest"] != digest:
            raise UserError(
                f"candidate file {name!r} differs from the texts that index {str(self.folder)!r} was made from: "
                "give --update to add its new candidates and delete the missing ones, or remove --candidates"
            )

    # ---- files

    def _show(self, state: State) -> None:
        """Map the valid part of every file, all at once, so that a replaced folder does not mix in. Reads no data."""
        if (place := _place(self.folder)) != self._place:  # a compacted index has other rows
            self._place, self._checked = place, 0
        self._state = state
        self.vectors = self._mapped("vectors.bin", np.float32, (state.rows, self.dim))
        self.squares = self._mapped("squares.bin", np.float32, (state.rows,))
        self._texts = self._mapped("texts.bin", np.uint8, (state.text_bytes,))
        self._ends = self._mapped("ends.bin", np.int64, (state.rows,))
        self._keys = self._mapped("keys.bin", np.uint64, (state.rows,))
        self._deleted = self._mapped("gone.bin", np.int64, (state.deleted,))
        if self.has_metadata:
            self._ids = self._mapped("ids.bin", np.uint8, (state.id_bytes,))
            self._id_ends = self._mapped("id_ends.bin", np.int64, (state.rows,))
            self._id_keys = self._mapped("id_keys.bin", np.uint64, (state.rows,))
            self._metadata = self._mapped("metadata.bin", np.uint8, (state.metadata_bytes,))
            self._metadata_ends = self._mapped("metadata_ends.bin", np.int64, (state.rows,))
            self._metadata_keys = self._mapped("metadata_keys.bin", np.uint64, (state.rows,))
        self.__dict__.pop("is_deleted", None)

    def _mapped(self, file: str, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
        if not np.prod(shape):
            return np.empty(shape, dtype=dtype)  # an empty file cannot be mapped
        with open_own(self.folder / file) as opened:
            # copy on write: torch accepts such an array without copying, but warns about read-only ones
            return np.memmap(opened, dtype=dtype, mode="c", shape=shape)

    def _damage(self, what: str) -> UserError:
        return UserError(f"index {str(self.folder)!r} is damaged: {what}; restore it, or rebuild it")

    def _refuse_damage(self) -> None:
        """Refuse inconsistent files, without reading vectors and texts."""
        deleted = self._deleted
        if not _are_ends(self._ends, self._state.text_bytes):
            raise self._damage("ends.bin has invalid text ends")
        if self.has_metadata and not _are_ends(self._id_ends, self._state.id_bytes):
            raise self._damage("id_ends.bin has invalid ends of ids")
        if self.has_metadata and not _are_ends(self._metadata_ends, self._state.metadata_bytes):
            raise self._damage("metadata_ends.bin has invalid ends of metadata")
        if len(deleted) and (deleted.min() < 0 or deleted.max() >= self._state.rows or len(np.unique(deleted)) < len(deleted)):
            raise self._damage("gone.bin has rows that do not exist, or one twice")
        if not np.isfinite(self.squares).all() or (self.squares < 0).any():
            raise self._damage("squares.bin has values that are not squared lengths")

    def refuse_damaged_vectors(self, rows: np.ndarray | None = None) -> None:
        """Refuse vectors with wrong squared lengths; each vector is checked once.

        Args:
            rows: Rows to check; default: all unchecked rows.

        Raises:
            UserError: A vector is wrong, for example nan.
        """
        if rows is not None:
            self._refuse_other_lengths(rows)
            return
        for start in range(self._checked, self._state.rows, _CHECKED_ROWS):
            self._refuse_other_lengths(np.arange(start, min(start + _CHECKED_ROWS, self._state.rows)))
        self._checked = self._state.rows

    def _refuse_other_lengths(self, rows: np.ndarray) -> None:
        part = slice(rows[0], rows[-1] + 1) if len(rows) and rows[-1] - rows[0] == len(rows) - 1 else rows  # a slice avoids a copy
        vectors, wanted = self.vectors[part], self.squares[part]
        with np.errstate(invalid="ignore", over="ignore"):
            is_as_was = np.abs(np.einsum("nd,nd->n", vectors, vectors) - wanted) <= _ROUNDING * wanted + 1e-30  # False for nan
        if not is_as_was.all():
            raise self._damage(f"the vector of row {int(rows[int(np.argmin(is_as_was))])} differs from its stored length")

    @contextmanager
    def _writing(self) -> Iterator[tuple[State, dict[str, Any]]]:
        """Acquire the write lock, truncate to the last commit, and open every file at its end."""
        try:
            with ExitStack() as opened:
                opened.enter_context(self._locked("lock"))
                state, commits_bytes = self._layout.last_state(self.folder, self.dim)
                files: dict[str, Any] = {}
                for file, size in {**self._layout.sizes(state, self.dim), LOG: commits_bytes}.items():
                    files[file] = opened.enter_context(open_own(self.folder / file, writable=True))
                    files[file].truncate(size)  # drop the rest of an interrupted append, which no reader sees
                    files[file].seek(size)
                yield state, files
        except OSError as error:
            raise UserError(
                f"index {str(self.folder)!r} cannot be written ({error.strerror or error}): its content is safe; free disk space or repair the disk, "
                "then run the same command again"
            ) from None

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Lock the synchronization with a file; others wait. Single appends and deletions remain possible."""
        with ExitStack() as held:
            try:
                held.enter_context(self._locked("update.lock"))
            except OSError as error:
                raise UserError(
                    f"index {str(self.folder)!r} cannot be written ({error.strerror}): change its permissions, or copy it"
                ) from None
            yield

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Hold a lock of the folder, which is released when the process is killed."""
        import fcntl  # only writers need it; some systems lack it

        path = self.folder / name
        while True:
            with open_own(path, writable=True, create=True) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if is_at(path, lock):
                    yield
                    return
                # another folder took the place of this one while we waited

    def _commit(self, files: dict[str, Any], state: State) -> None:
        self._log(files, state)
        self._show(state)

    def _log(self, files: dict[str, Any], state: State) -> None:
        """Make what was written durable, then the commit that makes it valid."""
        for name, file in files.items():
            if name != LOG:
                file.flush()
                os.fsync(file.fileno())
        files[LOG].write(self._layout.packed(state))
        files[LOG].flush()
        os.fsync(files[LOG].fileno())


def _is_own(name: str) -> bool:
    """Whether a name in an index's folder is one of the index's files, or what an interrupted writing of one left."""
    left = _PARTIAL.fullmatch(name)
    return (left[1] if left else name) in _OWN


def _place(path: Path) -> tuple[int, int] | None:
    """What tells a folder from another of the same name; None if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _undisturbed(folder: Path, read: Callable[[Path], Found]) -> Found:
    """Read from a folder, and again if another one took its place meanwhile."""
    while True:
        before = _place(folder)
        try:
            found = read(folder)
        except (UserError, ValueError, OSError):  # ValueError: a file is shorter than the log of the other folder says
            if _place(folder) == before:
                raise
            continue
        if _place(folder) == before:
            return found


def refuse_unstorable(candidates: Iterable[Candidate]) -> None:
    """Refuse candidates whose text or id is no string, with a repeated or blank id, no valid Unicode, or metadata that are no JSON.

    Raises:
        UserError: There is one.
    """
    seen: set[str] = set()
    for number, each in enumerate(candidates):
        if not isinstance(each, Candidate):
            raise UserError(f"candidate {number} is {each!r:.60}: give a Candidate, with text, id and metadata")
        if not isinstance(each.text, str):
            raise UserError(f"the text of candidate {number} is {each.text!r:.60}, not text: give a string")
        if each.id is not None and not isinstance(each.id, str):
            raise UserError(f"the id of text {each.text!r:.60} is {each.id!r:.60}, not text: give a string, or None")
        _refuse_surrogates([each.text, each.id or ""])
        if each.id is not None and not each.id.strip():
            raise UserError(f"the id of text {each.text!r:.60} is blank: give every candidate its id, or none")
        if each.identity in seen:
            what = "text" if each.id is None else "id"
            raise UserError(f"{what} {each.identity!r:.60} is given twice: give every candidate an id of its own")
        seen.add(each.identity)
        encoded_metadata(each)


def _refuse_surrogates(texts: Iterable[str]) -> None:
    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"text {text!r:.60} has half of a surrogate pair, which UTF-8 cannot store: repair or remove it") from None


def encoded_metadata(candidate: Candidate) -> bytes:
    """Metadata of a candidate as they are stored; equal metadata give equal bytes.

    Raises:
        UserError: They are no JSON.
    """
    if not isinstance(candidate.metadata, Mapping) or not all(isinstance(name, str) for name in candidate.metadata):
        raise UserError(f"the metadata of {candidate.identity!r:.60} are no object with names: give a dict of JSON values")
    if not candidate.metadata:
        return b""
    try:
        return json.dumps(dict(candidate.metadata), ensure_ascii=False, sort_keys=True, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"the metadata of {candidate.identity!r:.60} are no JSON ({error}): give texts, numbers, truth values, lists and objects"
        ) from None


def digest_of_candidates(candidates: Iterable[Candidate]) -> str:
    """As ``digest_of``, of texts, ids and metadata."""
    parts = ((each.text.encode(), (each.id or "").encode(), encoded_metadata(each)) for each in candidates)
    return _digest(part for each in parts for part in each)


def _part(content: np.ndarray, ends: np.ndarray, row: int) -> bytes:
    return content[int(ends[row - 1]) if row else 0 : int(ends[row])].tobytes()


def _write_parts(files: dict[str, Any], names: tuple[str, str], parts: Sequence[bytes], start: int) -> int:
    """Write byte strings and their ends; returns the end of the last one."""
    files[names[0]].write(b"".join(parts))
    files[names[1]].write((start + np.cumsum([len(part) for part in parts], dtype=np.int64)).tobytes())
    return start + sum(map(len, parts))


def _are_ends(ends: np.ndarray, total: int) -> bool:
    return not len(ends) or bool(ends[0] >= 0 and int(ends[-1]) == total and (np.diff(ends) >= 0).all())


def _squares(vectors: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.einsum("nd,nd->n", vectors, vectors)


def _keys(parts: Sequence[str] | Sequence[bytes]) -> bytes:
    return np.array([_key(part.encode("utf-8") if isinstance(part, str) else part) for part in parts], dtype=np.uint64).tobytes()


def _key(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def digest_of(texts: Sequence[str]) -> str:
    """Sixteen hexadecimal digits that differ between sets of candidates, independent of the file format."""
    return _digest(text.encode("utf-8") for text in texts)


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()

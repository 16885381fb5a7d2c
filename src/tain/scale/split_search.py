"""Search an index that is split into parts: each part is built and searched alone, and the hits are joined."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.ranking.index import CandidateIndex, digest_of
from tain.ranking.rerank import EncodesCandidates, Hit, search, sync_index
from tain.scale.records import stem_of
from tain.text.kept import read_text_rows
from tain.text.parts import Share

_PART = re.compile(r"\d{5,}-of-(\d{5,})")


@runtime_checkable
class Searcher(EncodesCandidates, Protocol):
    """A bi- or poly-encoder that can make an index."""

    truncated_contexts: int

    @property
    def dim(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class SplitIndex:
    """An index in parts: a folder with one index for each share of the candidates.

    Attributes:
        folder: Folder of the parts.
        count: Number of parts.
        source: The candidates, as in ``read_text_rows``; None searches parts that exist.
        column: Column of the candidates, if they are a table.
    """

    folder: Path
    count: int
    source: str | None = None
    column: str | None = None

    @classmethod
    def at(cls, folder: Path, *, count: int | None, source: str | None, column: str | None) -> "SplitIndex":
        """The index of a folder, with the number of parts that it has.

        Args:
            folder: Folder of the parts.
            count: Number of parts; None takes that of the folder.
            source: The candidates.
            column: Column of the candidates.

        Raises:
            UserError: The folder holds another number of parts, or none and no number is given, or an index that is not split.
        """
        if (folder / "index.json").exists():
            raise UserError(f"index {str(folder)!r} is not split: leave --shards and --ray out, or name another folder")
        counts = parts_in(folder)
        if len(counts) > 1 or (count is not None and counts - {count}):
            there = " and ".join(map(str, sorted(counts)))
            raise UserError(f"index {str(folder)!r} has {there} parts, not {count}: give the same number, or another folder")
        if count is None and not counts:
            raise UserError(f"index {str(folder)!r} has no parts yet: give their number with --shards")
        return cls(folder=folder, count=count or counts.pop(), source=source, column=column)

    def part(self, number: int) -> Path:
        """Folder of part ``number``, counted from 1."""
        return self.folder / stem_of(number, self.count)

    def texts(self, number: int) -> list[str]:
        """Candidates of part ``number``."""
        assert self.source is not None
        return [row.text for row in read_text_rows(self.source, column=self.column, share=Share(number, self.count))]


def parts_in(folder: Path) -> set[int]:
    """Numbers of parts of the split indexes in a folder; empty if there is none."""
    if not folder.is_dir():
        return set()
    return {int(match[1]) for path in folder.iterdir() if (match := _PART.fullmatch(path.name))}


@dataclass(frozen=True, kw_only=True)
class PartHits:
    """Hits of one part.

    Attributes:
        hits: Of each context, as (text, row in the part, score), best first.
        rows: Rows of the part, deleted ones included.
        texts: Candidates searched.
        truncated_contexts: Contexts that were cut.
        truncated_candidates: Candidates that were cut, if the part was built.
    """

    hits: list[list[tuple[str, int, float]]]
    rows: int
    texts: int
    truncated_contexts: int = 0
    truncated_candidates: int = 0


def search_part(
    ranker: Searcher,
    index: SplitIndex,
    number: int,
    *,
    contexts: Sequence[str],
    k: int,
    probes: int | None = None,
    progress: Progress | None = None,
) -> PartHits:
    """Build one part if it is not complete, and search it.

    A part that was begun by a killed process is continued.

    Args:
        ranker: The bi- or poly-encoder.
        index: The index.
        number: Number of the part, from 1.
        contexts: Query texts.
        k: Hits per context; a smaller part gives fewer.
        probes: As in ``search``.
        progress: Progress display; advances with every batch.

    Raises:
        UserError: As ``search`` and ``read_text_rows``; or the part is missing, or was made from other candidates.
    """
    path = index.part(number)
    cut = 0
    if index.source is None:
        part = CandidateIndex.open(path)
        part.refuse_unfinished()
    else:
        texts = index.texts(number)
        if not path.exists():
            CandidateIndex.create(path, dim=ranker.dim, fingerprint=ranker.fingerprint, model=ranker.name)
        part = CandidateIndex.open(path)
        part.refuse_other_model(ranker.fingerprint, ranker.name)
        if part.source:
            part.refuse_changed_source(name=index.source, digest=digest_of(texts))
        if texts and not part.is_complete:
            sync_index(ranker, part, texts, name=index.source, progress=progress)
            cut = ranker.truncated_candidates
    if not part.live:
        return PartHits(hits=[[] for _ in contexts], rows=len(part), texts=0)
    found = search(ranker, part, contexts, k=k, probes=probes, progress=progress)
    return PartHits(
        hits=[[(hit.text, hit.row, hit.score) for hit in hits] for hits in found],
        rows=len(part),
        texts=part.live,
        truncated_contexts=ranker.truncated_contexts,
        truncated_candidates=cut,
    )


def joined_hits(parts: Sequence[PartHits], *, k: int) -> list[list[Hit]]:
    """The best hits of all parts, with the rows of all parts counted through; a candidate that several parts hold counts once.

    Args:
        parts: Hits of every part, in order, ``k`` or more per context where a part has as many candidates.
        k: Hits per context.
    """
    starts = [sum(part.rows for part in parts[:number]) for number in range(len(parts))]
    joined = []
    for context in range(len(parts[0].hits)):
        found = [
            Hit(text, start + row, score) for start, part in zip(starts, parts, strict=True) for text, row, score in part.hits[context]
        ]
        best: dict[str, Hit] = {}
        for hit in sorted(found, key=lambda hit: (-hit.score, hit.row)):
            best.setdefault(hit.text, hit)
        joined.append(list(best.values())[:k])
    return joined


def as_part(made: dict[str, Any]) -> PartHits:
    """Hits of a part that went through JSON."""
    return PartHits(**{**made, "hits": [[(text, row, score) for text, row, score in hits] for hits in made["hits"]]})

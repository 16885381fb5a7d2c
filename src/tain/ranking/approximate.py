"""Approximate search in very large indexes with FAISS: inverted lists over vectors quantized to one byte per number.

Optional (``pip install "tain[scale]"``), and the only inexact search: candidates on the short list are scored exactly, but a good
candidate in a list that is not probed is missed. For a poly-encoder every context vector is searched separately, because
the largest similarity bounds the score (the mixture over vectors cannot be searched directly: Luan et al. 2021).
"""

import importlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tain.foundation.errors import UserError
from tain.foundation.files import refuse_link, whole_file
from tain.foundation.progress import Progress
from tain.ranking.index import SHORT_LISTS, CandidateIndex
from tain.ranking.short_file import DamagedListsError, check_short_lists

_TRAINED_A_LIST = 64  # vectors per list used to fit its centre
_ADDED_AT_ONCE = 65_536
_STALE = 1.5  # rebuild the lists when the rows have grown by this factor
_OVERSAMPLED, _FEWEST = 4, 100  # candidates requested per vector: a multiple of the wanted hits, and a minimum


class ShortLists:
    """Inverted lists over the rows of an index.

    Args:
        index: The indexed candidates.
        lists: A FAISS index of its rows.
    """

    def __init__(self, index: CandidateIndex, lists: Any) -> None:
        self.index, self.lists = index, lists

    @classmethod
    def of(cls, index: CandidateIndex, *, progress: Progress | None = None) -> "ShortLists":
        """Load the lists from the index's folder and add newer rows; rebuild and save them if the index has grown too much.

        Raises:
            UserError: FAISS is not installed, the folder's lists do not belong to this index, or it was compacted after this view.
        """
        faiss, progress = _faiss(), progress or Progress.silent()
        index.refuse_compacted()
        lists = _read(faiss, index)
        if lists is not None and lists.ntotal <= len(index) <= _STALE * lists.ntotal:
            _add(lists, index.vectors[lists.ntotal :], progress)
            return cls(index, lists)
        index.refuse_damaged_vectors()
        lists = _made(faiss, index.vectors, progress)
        index.refuse_compacted()
        try:
            _write(faiss, lists, index.folder / SHORT_LISTS)
        except (OSError, RuntimeError, UserError) as error:  # FAISS has no specific exception for disk errors
            progress.warn(f"the short lists cannot be saved, so every search will rebuild them: {error}")
        return cls(index, lists)

    def rows(self, context: Any, *, k: int, probes: int) -> np.ndarray:
        """Give the short list for one context: live rows in order, without repeats.

        Args:
            context: The context's vectors (vectors, dim), of torch or NumPy; each asks on its own.
            k: Hits that are wanted. Each vector asks for four times as many and 100 at least: the lists know vectors in one byte a
                number, and the best by their mixture need not be the best for any one of them.
            probes: Lists looked into a vector; more finds more and takes longer.
        """
        faiss = _faiss()
        options = {"nprobe": min(probes, self.lists.nlist)}
        if self._living is not None:
            options["sel"] = faiss.IDSelectorBitmap(self._living)
        asked = np.ascontiguousarray(context, dtype=np.float32)
        _, found = self.lists.search(asked, max(_OVERSAMPLED * k, _FEWEST), params=faiss.SearchParametersIVF(**options))
        return np.unique(found[found >= 0])

    @cached_property
    def _living(self) -> np.ndarray | None:
        """Bitmap of the rows that were not deleted; None if none were."""
        is_deleted = self.index.is_deleted
        return np.packbits(~is_deleted, bitorder="little") if is_deleted.any() else None


def _made(faiss: Any, vectors: np.ndarray, progress: Progress) -> Any:
    number, dim = vectors.shape
    count = max(1, min(int(4 * number**0.5), number // _TRAINED_A_LIST))
    centres = faiss.IndexFlatIP(dim)
    lists = faiss.IndexIVFScalarQuantizer(centres, dim, count, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    sample = np.random.default_rng(0).permutation(number)[: count * _TRAINED_A_LIST]
    lists.train(np.ascontiguousarray(vectors[np.sort(sample)]))
    _add(lists, vectors, progress)
    lists.own_fields = True
    centres.this.disown()  # the lists own their centres; Python must not free them too
    return lists


def _add(lists: Any, vectors: np.ndarray, progress: Progress) -> None:
    with progress.task("short lists", len(vectors)) as task:
        for start in range(0, len(vectors), _ADDED_AT_ONCE):
            block = np.ascontiguousarray(vectors[start : start + _ADDED_AT_ONCE])
            lists.add(block)
            task.advance(len(block))


def _read(faiss: Any, index: CandidateIndex) -> Any:
    """The lists in an index's folder; None if there are none.

    Raises:
        UserError: The file does not hold lists of this index, or is damaged.
    """
    path = index.folder / SHORT_LISTS
    refuse_link(path)
    if not path.exists():
        return None
    try:
        check_short_lists(path, dim=index.dim, rows=index.committed_rows())
        return faiss.read_index(str(path))
    except (DamagedListsError, OSError, RuntimeError) as error:  # RuntimeError is raised by FAISS
        told = " ".join(str(error).split())
        raise UserError(f"the short lists {str(path)!r} are damaged ({told}): remove that file, and the next search rebuilds it") from None


def _write(faiss: Any, lists: Any, path: Path) -> None:
    with whole_file(path, overwrite=True, follow=False) as partial:
        faiss.write_index(lists, str(partial))


def refuse_missing_faiss() -> None:
    """Refuse an approximate search without FAISS, before any computation.

    Raises:
        UserError: FAISS is not installed.
    """
    _faiss()


def _faiss() -> Any:
    try:
        return importlib.import_module("faiss")
    except ImportError:
        raise UserError(
            'an approximate search needs FAISS, which is not installed: run pip install "tain[scale]", or remove the option'
        ) from None

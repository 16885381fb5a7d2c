"""A short list out of a very large index, by FAISS: inverted lists over vectors in one byte a number.

Optional (``pip install "tain[scale]"``), and the one search here that may miss: whatever is on the short list is scored exactly, but a
good candidate whose list was not looked into is not on it. For a poly-encoder every vector of the context asks on its own, because
the greatest similarity bounds the score (the mixture over vectors itself cannot be searched so: Luan et al. 2021).
"""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from tain.foundation.errors import UserError
from tain.foundation.files import whole_file
from tain.foundation.progress import Progress
from tain.ranking.index import CandidateIndex

_TRAINED_A_LIST = 64  # vectors that one list's centre is fitted to
_ADDED_AT_ONCE = 65_536
_STALE = 1.5  # more rows than this times those covered: made anew


class ShortLists:
    """Inverted lists over the first rows of an index; rows appended since are always on the short list.

    Args:
        index: The index they cover.
        lists: A FAISS index of the first rows.
    """

    def __init__(self, index: CandidateIndex, lists: Any) -> None:
        self.index, self.lists = index, lists

    @classmethod
    def of(cls, index: CandidateIndex, *, progress: Progress | None = None) -> "ShortLists":
        """Read them from the index's folder, or make and keep them there where there are none or most rows came later.

        Raises:
            UserError: FAISS is not installed.
        """
        faiss = _faiss()
        path = index.folder / "short.faiss"
        if path.exists():
            lists = faiss.read_index(str(path))
            if lists.ntotal <= len(index) <= _STALE * lists.ntotal:
                return cls(index, lists)
        lists = _made(faiss, index.vectors, progress or Progress.silent())
        _write(faiss, lists, path)
        return cls(index, lists)

    def rows(self, context: Float[Tensor, "vectors dim"], *, size: int, probes: int) -> np.ndarray:
        """Give the short list for one context: living rows in order, without repeats.

        Args:
            context: The context's vectors; each asks for ``size`` candidates.
            size: Candidates a vector.
            probes: Lists looked into a vector; more finds more and takes longer.
        """
        self.lists.nprobe = min(probes, self.lists.nlist)
        _, found = self.lists.search(np.ascontiguousarray(context.numpy(), dtype=np.float32), size)
        late = np.arange(self.lists.ntotal, len(self.index))
        rows = np.union1d(found[found >= 0], late)
        return rows[~self.index.is_gone[rows]]


def _made(faiss: Any, vectors: np.ndarray, progress: Progress) -> Any:
    number, dim = vectors.shape
    count = max(1, min(int(4 * number**0.5), number // _TRAINED_A_LIST))
    centres = faiss.IndexFlatIP(dim)
    lists = faiss.IndexIVFScalarQuantizer(centres, dim, count, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    sample = np.random.default_rng(0).permutation(number)[: count * _TRAINED_A_LIST]
    lists.train(np.ascontiguousarray(vectors[np.sort(sample)]))
    with progress.task("short lists", number) as task:
        for start in range(0, number, _ADDED_AT_ONCE):
            block = np.ascontiguousarray(vectors[start : start + _ADDED_AT_ONCE])
            lists.add(block)
            task.advance(len(block))
    lists.own_fields = True
    centres.this.disown()  # the lists free their centres; Python must not do it too
    return lists


def _write(faiss: Any, lists: Any, path: Path) -> None:
    with whole_file(path, overwrite=True) as partial:
        faiss.write_index(lists, str(partial))


def _faiss() -> Any:
    try:
        return importlib.import_module("faiss")
    except ImportError:
        raise UserError(
            'an approximate search needs FAISS, which is not installed: run pip install "tain[scale]", or leave it out'
        ) from None

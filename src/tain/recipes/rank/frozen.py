"""Cached outputs of a frozen encoder, so that training only the codes needs no encoder passes."""

import errno
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tain.batches.packing import batches_by_tokens, pack
from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models.rankers import DualRanker

_BATCH_TOKENS = 4096


class FrozenTower:
    """Unscaled token vectors of contexts in an unnamed file, and pooled vectors of candidates in memory.

    Args:
        ranker: Ranker with the encoders; dropout is off while they run.
        contexts: Tokenised contexts.
        candidates: Tokenised candidates.
        folder: Folder of the file; None: the system's temporary folder.
        progress: Shows the progress.

    Raises:
        UserError: There is not enough disk space for the file.
    """

    @torch.no_grad()
    def __init__(
        self,
        ranker: DualRanker,
        contexts: Sequence[Sequence[int]],
        candidates: Sequence[Sequence[int]],
        *,
        folder: Path | None,
        progress: Progress,
    ) -> None:
        ranker.module.eval()
        self.device = ranker.device
        self.lengths = np.array([len(ids) for ids in contexts])
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as this object; half precision, because it may be large
        _take_room(self._file.fileno(), 2 * int(self.starts[-1]) * ranker.dim, folder or Path(tempfile.gettempdir()))
        self._states = np.memmap(self._file, dtype=np.float16, mode="w+", shape=(int(self.starts[-1]), ranker.dim))
        self._candidates = torch.empty(len(candidates), ranker.dim, device=self.device)
        with progress.task("encode once", len(contexts) + len(candidates)) as task:
            for batch in batches_by_tokens(self.lengths.tolist(), batch_tokens=_BATCH_TOKENS):
                packed = pack([contexts[text] for text in batch])
                hidden = ranker.context.encoder.tokens(packed).cpu().to(torch.float16).numpy()
                for index, start in zip(packed.order.tolist(), packed.starts.tolist(), strict=True):
                    text = batch[index]
                    self._states[self.starts[text] : self.starts[text + 1]] = hidden[start : start + self.lengths[text]]
                task.advance(len(batch))
            for batch in batches_by_tokens([len(ids) for ids in candidates], batch_tokens=_BATCH_TOKENS):
                self._candidates[batch] = ranker.candidate.encoder(pack([candidates[text] for text in batch]))
                task.advance(len(batch))

    def tokens(self, contexts: np.ndarray) -> tuple[Float[Tensor, "texts longest dim"], Bool[Tensor, "texts longest"]]:
        """Token vectors of some contexts, and a mask that is True on real tokens."""
        lengths = self.lengths[contexts]
        rows = np.zeros((len(contexts), int(lengths.max()), self._states.shape[1]), dtype=np.float16)
        for row, context in enumerate(contexts):
            rows[row, : lengths[row]] = self._states[self.starts[context] : self.starts[context + 1]]
        is_token = np.arange(rows.shape[1]) < lengths[:, None]
        return torch.from_numpy(rows).to(self.device).float(), torch.from_numpy(is_token).to(self.device)

    def candidates(self, rows: np.ndarray) -> Float[Tensor, "candidates dim"]:
        """Pooled vectors of some candidates."""
        return self._candidates[torch.from_numpy(rows).to(self.device)]


def _take_room(descriptor: int, size_bytes: int, folder: Path) -> None:
    """Reserve a file's disk space now: a full disk met later, through a memory map, kills the process."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot reserve space
            return
        raise UserError(
            f"--freeze encoder keeps {size_bytes / 1e9:,.1f} GB of token vectors in {str(folder)!r} while it runs, but there is not enough space "
            f"({error.strerror}): free some space, give fewer pairs, or a smaller --context-tokens"
        ) from None

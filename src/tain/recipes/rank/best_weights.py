"""Keep the weights of the best validation of a run."""

from pathlib import Path
from typing import Any

from torch import Tensor

from tain.foundation.errors import UserError
from tain.training import distributed
from tain.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tain.training.optimizer import MasterWeights


class BestWeights:
    """Keeps the weights of the best validation, on disk if the run can be resumed, else in memory.

    Args:
        folder: Folder for the weights; None for memory.
        identity: Identity of the run; weights of another run are refused.
    """

    def __init__(self, folder: Path | None = None, identity: dict[str, Any] | None = None) -> None:
        self.folder, self.identity = folder, identity or {}
        self._kept: dict[str, Tensor] = {}

    def keep(self, weights: MasterWeights, figure: float) -> None:
        """Keep the current weights, which have this figure."""
        if self.folder is None:
            self._kept = {name: tensor.clone() for name, tensor in weights.state().items()}
        elif distributed.rank() == 0:
            save_checkpoint(self.folder, Checkpoint(0, self.identity, {"best": figure}), weights.state())

    def load(self, weights: MasterWeights, figure: float) -> None:
        """Put the kept weights back.

        Args:
            weights: Receives them.
            figure: The figure that they were kept with. The folder may hold better weights, found after the last checkpoint of an
                interrupted run. They are accepted only from this run, which repeats itself exactly on a CPU with the same threads.

        Raises:
            UserError: The folder's weights belong to another run.
        """
        distributed.wait_for_all()
        if self.folder is None:
            weights.load_state(self._kept)
            return
        kept, tensors = load_checkpoint(self.folder, identity=self.identity, defaults={})
        if kept.figures["best"] < figure:
            raise UserError(
                f"the weights in {str(self.folder)!r} are not the best of this run: start over with --overwrite and without --resume"
            )
        weights.load_state(tensors)

"""Turn any pretrained masked language model into a word and sentence encoder, with no labels, in seconds."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tain.foundation.errors import ShapeError, UserError
    from tain.models.embedder import Embedder
    from tain.models.rankers import Ranker
    from tain.recipes.correct import correct
    from tain.recipes.correct_config import CorrectConfig
    from tain.recipes.distil import distil
    from tain.recipes.distil_config import DistilConfig
    from tain.recipes.inspect import inspect, inspect_against
    from tain.recipes.mirror import mirror
    from tain.recipes.mirror_config import MirrorConfig
    from tain.recipes.pretrain import pretrain
    from tain.recipes.pretrain_config import PretrainConfig
    from tain.recipes.rank import rank
    from tain.recipes.rank_config import RankConfig
    from tain.runtime.student import Student

__version__ = "0.1.0"

# name -> where it lives: a public name costs its import only when it is used
_PUBLIC = {
    "CorrectConfig": "tain.recipes.correct_config",
    "DistilConfig": "tain.recipes.distil_config",
    "Embedder": "tain.models.embedder",
    "MirrorConfig": "tain.recipes.mirror_config",
    "PretrainConfig": "tain.recipes.pretrain_config",
    "RankConfig": "tain.recipes.rank_config",
    "Ranker": "tain.models.rankers",
    "ShapeError": "tain.foundation.errors",
    "Student": "tain.runtime.student",
    "UserError": "tain.foundation.errors",
    "correct": "tain.recipes.correct",
    "distil": "tain.recipes.distil",
    "inspect": "tain.recipes.inspect",
    "inspect_against": "tain.recipes.inspect",
    "mirror": "tain.recipes.mirror",
    "pretrain": "tain.recipes.pretrain",
    "rank": "tain.recipes.rank",
}

__all__ = [
    "CorrectConfig",
    "DistilConfig",
    "Embedder",
    "MirrorConfig",
    "PretrainConfig",
    "RankConfig",
    "Ranker",
    "ShapeError",
    "Student",
    "UserError",
    "__version__",
    "correct",
    "distil",
    "inspect",
    "inspect_against",
    "mirror",
    "pretrain",
    "rank",
]


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'tain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

"""Turn any pretrained masked language model into a word and sentence encoder, with no labels, in seconds."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tain.exported.encoder import ExportedEncoder
    from tain.foundation.errors import ShapeError, UserError
    from tain.inspection.run import inspect, inspect_against
    from tain.models.embedder import Embedder
    from tain.models.rankers import Ranker
    from tain.recipes.correct.config import CorrectConfig
    from tain.recipes.correct.recipe import correct
    from tain.recipes.distil.config import DistilConfig
    from tain.recipes.distil.recipe import distil
    from tain.recipes.export.config import ExportConfig
    from tain.recipes.export.recipe import export
    from tain.recipes.mirror.config import MirrorConfig
    from tain.recipes.mirror.recipe import mirror
    from tain.recipes.pretrain.config import PretrainConfig
    from tain.recipes.pretrain.recipe import pretrain
    from tain.recipes.rank.config import RankConfig
    from tain.recipes.rank.recipe import rank
    from tain.students.student import Student

__version__ = "0.1.0"

# name -> where it lives: a public name costs its import only when it is used
_PUBLIC = {
    "CorrectConfig": "tain.recipes.correct.config",
    "DistilConfig": "tain.recipes.distil.config",
    "Embedder": "tain.models.embedder",
    "ExportConfig": "tain.recipes.export.config",
    "ExportedEncoder": "tain.exported.encoder",
    "MirrorConfig": "tain.recipes.mirror.config",
    "PretrainConfig": "tain.recipes.pretrain.config",
    "RankConfig": "tain.recipes.rank.config",
    "Ranker": "tain.models.rankers",
    "ShapeError": "tain.foundation.errors",
    "Student": "tain.students.student",
    "UserError": "tain.foundation.errors",
    "correct": "tain.recipes.correct.recipe",
    "distil": "tain.recipes.distil.recipe",
    "export": "tain.recipes.export.recipe",
    "inspect": "tain.inspection.run",
    "inspect_against": "tain.inspection.run",
    "mirror": "tain.recipes.mirror.recipe",
    "pretrain": "tain.recipes.pretrain.recipe",
    "rank": "tain.recipes.rank.recipe",
}

__all__ = [
    "CorrectConfig",
    "DistilConfig",
    "Embedder",
    "ExportConfig",
    "ExportedEncoder",
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
    "export",
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

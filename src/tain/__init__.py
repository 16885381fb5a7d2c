"""Turn any pretrained masked language model into a word and sentence encoder, from raw text, without labels."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tain.api import evaluate, load
    from tain.exported.encoder import ExportedEncoder
    from tain.foundation.errors import ShapeError, UserError
    from tain.inspection.run import inspect, inspect_against
    from tain.inspection.run import inspect as inspect_model
    from tain.models.embedder import Embedder
    from tain.models.labeller import Labeller
    from tain.models.rankers import Ranker
    from tain.publishing.push import push
    from tain.ranking.index import CandidateIndex
    from tain.recipes.compare.config import CompareConfig
    from tain.recipes.compare.recipe import compare
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
    from tain.recipes.rank.recipe import rank as train_ranker
    from tain.students.student import Student

__version__ = "0.1.0"

# name -> module and name there: a public name costs its import only when it is used
_PUBLIC = {
    "CandidateIndex": "tain.ranking.index:CandidateIndex",
    "CompareConfig": "tain.recipes.compare.config:CompareConfig",
    "CorrectConfig": "tain.recipes.correct.config:CorrectConfig",
    "DistilConfig": "tain.recipes.distil.config:DistilConfig",
    "Embedder": "tain.models.embedder:Embedder",
    "ExportConfig": "tain.recipes.export.config:ExportConfig",
    "ExportedEncoder": "tain.exported.encoder:ExportedEncoder",
    "Labeller": "tain.models.labeller:Labeller",
    "MirrorConfig": "tain.recipes.mirror.config:MirrorConfig",
    "PretrainConfig": "tain.recipes.pretrain.config:PretrainConfig",
    "RankConfig": "tain.recipes.rank.config:RankConfig",
    "Ranker": "tain.models.rankers:Ranker",
    "ShapeError": "tain.foundation.errors:ShapeError",
    "Student": "tain.students.student:Student",
    "UserError": "tain.foundation.errors:UserError",
    "compare": "tain.recipes.compare.recipe:compare",
    "correct": "tain.recipes.correct.recipe:correct",
    "distil": "tain.recipes.distil.recipe:distil",
    "evaluate": "tain.api:evaluate",
    "export": "tain.recipes.export.recipe:export",
    "inspect": "tain.inspection.run:inspect",  # the earlier name of inspect_model
    "inspect_against": "tain.inspection.run:inspect_against",
    "inspect_model": "tain.inspection.run:inspect",
    "load": "tain.api:load",
    "mirror": "tain.recipes.mirror.recipe:mirror",
    "pretrain": "tain.recipes.pretrain.recipe:pretrain",
    "push": "tain.publishing.push:push",
    "rank": "tain.recipes.rank.recipe:rank",  # the earlier name of train_ranker
    "train_ranker": "tain.recipes.rank.recipe:rank",
}

__all__ = [
    "CandidateIndex",
    "CompareConfig",
    "CorrectConfig",
    "DistilConfig",
    "Embedder",
    "ExportConfig",
    "ExportedEncoder",
    "Labeller",
    "MirrorConfig",
    "PretrainConfig",
    "RankConfig",
    "Ranker",
    "ShapeError",
    "Student",
    "UserError",
    "__version__",
    "compare",
    "correct",
    "distil",
    "evaluate",
    "export",
    "inspect",
    "inspect_against",
    "inspect_model",
    "load",
    "mirror",
    "pretrain",
    "push",
    "rank",
    "train_ranker",
]


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        module, _, attribute = _PUBLIC[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module 'tain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

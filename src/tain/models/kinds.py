"""Detect what kind of model a folder or hub name holds, from its small files and without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tain.foundation.errors import UserError
from tain.foundation.json_files import Field, checked_object
from tain.models.hub import not_found
from tain.models.saved import locate, read_record, read_stored_json

Head = Literal["none", "classifier", "tagger", "cross-encoder", "question answering", "multiple choice"]
Holds = Literal["encoder", "ranker", "labeller"]

_READ = {name: Field(kind=kind, is_needed=False, may_be_null=True) for name, kind in (("architectures", list), ("num_labels", int))}
_HEADS: dict[str, Head] = {
    "ForSequenceClassification": "classifier",
    "ForTokenClassification": "tagger",
    "ForQuestionAnswering": "question answering",
    "ForMultipleChoice": "multiple choice",
}
_HEAD_GIVES: dict[Head, str] = {
    "classifier": "labels, not vectors: use tain label",
    "tagger": "labels of tokens, not vectors: use tain label",
    "cross-encoder": "a score per text pair, not vectors: use tain rank score, rank search --rerank or serve",
    "question answering": "spans, not vectors: give an encoder",
    "multiple choice": "choices, not vectors: give an encoder",
}
_HOLDS: dict[Head, Holds] = {"classifier": "labeller", "tagger": "labeller", "cross-encoder": "ranker"}


@dataclass(frozen=True)
class ModelKind:
    """Kind of model in a folder or under a hub name.

    Attributes:
        path: What transformers loads: a folder or a hub name.
        architecture: Class the weights were saved from, such as ``BertForMaskedLM``; empty if not stated.
        head: Output of the saved class besides token vectors; a masked language model's head counts as none.
        labels: Outputs of the head; 0 without one.
        sentence_transformers: ``config_sentence_transformers.json``; empty if there is none.
        config: ``config.json`` as a dictionary.
    """

    path: str
    architecture: str
    head: Head
    labels: int
    sentence_transformers: dict[str, Any]
    config: dict[str, Any]

    @property
    def is_encoder_alone(self) -> bool:
        """Whether it is a separately saved encoder of an encoder-decoder, such as T5EncoderModel."""
        return self.architecture.endswith("EncoderModel")

    def refuse_head(self, name: str | Path) -> None:
        """Refuse a model whose head does not output vectors.

        Raises:
            UserError: It has such a head.
        """
        if self.head != "none":
            raise UserError(
                f"model {str(name)!r} is a {self.head} model ({self.architecture}), and outputs {_HEAD_GIVES[self.head]};"
                " for vectors of the encoder below the head, give the pooling (mean or cls)"
            )


def kind_of(path: str) -> ModelKind:
    """Detect the kind of model in a folder or under a hub name, without loading weights.

    Args:
        path: As returned by ``saved.locate``.

    Raises:
        UserError: A file is damaged, or the model does not exist.
    """
    config = read_stored_json(path, "config.json")
    modules = read_stored_json(path, "modules.json")
    if not config and not modules and not Path(path).is_dir():
        raise not_found(path)
    about = read_stored_json(path, "config_sentence_transformers.json")
    config, about = (each if isinstance(each, dict) else {} for each in (config, about))
    modules = modules if isinstance(modules, list) else []
    checked_object(config, _READ, damaged=f"model {path!r} has a damaged config.json", advice="save the model again")
    architectures = [str(each) for each in config.get("architectures") or []]
    named: list[Head] = [kind for suffix, kind in _HEADS.items() if any(each.endswith(suffix) for each in architectures)]
    head: Head = named[0] if named else "none"
    names = config.get("id2label")
    labels = 0 if head == "none" else len(names) if isinstance(names, dict) else config.get("num_labels") or 2
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules if isinstance(module, dict)]
    if about.get("model_type") == "CrossEncoder" or (head == "classifier" and labels == 1):
        head = "cross-encoder"
    if "Pooling" in kinds:
        head = "none"  # the folder specifies how token vectors are used
    return ModelKind(path, architectures[0] if architectures else "", head, labels, about, config)


def what_it_holds(name: str | Path) -> Holds:
    """What a folder or hub name is used as: an encoder, a ranker or cross-encoder, or a classifier or tagger.

    Raises:
        UserError: As ``saved.locate`` and ``kind_of``.
    """
    if read_record(name).get("kind") == "ranker":
        return "ranker"
    return _HOLDS.get(kind_of(locate(name)).head, "encoder")

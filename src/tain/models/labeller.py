"""Transformers classifiers and taggers: texts in, logits or labels out."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.foundation.runtime import choose_device
from tain.models.embedder import load_with_missing, loading_errors, max_length, weights_fingerprint
from tain.models.saved import locate, refuse_pickles
from tain.text.collections import list_texts
from tain.text.records import Prediction
from tain.text.tags import tokens_of

Kind = Literal["classify", "tag"]

_HEADS: dict[Kind, str] = {"classify": "SequenceClassification", "tag": "TokenClassification"}
_CALLED: dict[Kind, str] = {"classify": "classifier", "tag": "tagger"}
_NO_CLASSES = ("regression", "multi_label_classification")
_BATCH_TEXTS = 64


class Labeller:
    """A fine-tuned transformers model with a head for whole texts, or one for tokens.

    Attributes:
        name: What the user called it.
        labels: Names of its classes, in the order of its logits; empty for a tagger.
        tags: Names of its tags; empty for a classifier.
        size_bytes: Its weights in float32.
        truncated: Texts that the last call cut at the model's limit.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, labels: tuple[str, ...] = (), tags: tuple[str, ...] = ()) -> None:
        self.name, self.labels, self.tags = name, labels, tags
        self.size_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
        self.max_tokens = max_length(model, tokenizer)
        self.truncated = 0
        self._model, self._tokenizer = model, tokenizer

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        kind: Kind | None = None,
        names: Sequence[str] | None = None,
        device: str | None = None,
        trust_remote_code: bool = False,
    ) -> "Labeller":
        """Load a model's folder or hub name.

        Args:
            name: Which.
            kind: The head to load it with; default: the one that its config names.
            names: Of its classes (or tags), in the order of its logits; default: what its config says.
            device: Where it runs; default: a GPU where there is one.
            trust_remote_code: Let the folder bring Python code of its own.

        Raises:
            UserError: It is not there, has no trained head of that kind, or another number of outputs than there are names.
        """
        path = locate(str(name))
        refuse_pickles(path)
        named = _named_kind(path)
        if kind is not None and named not in (None, kind):
            raise UserError(f"model {str(name)!r} is a {_CALLED[named]}, but what is needed is a {_CALLED[kind]}: give one")
        kind = kind or named
        if kind is None:
            raise UserError(
                f"model {str(name)!r} is no classifier and no tagger: give a student, or a fine-tuned transformers model with such a head"
            )
        model, tokenizer, missing = load_with_missing(f"AutoModelFor{_HEADS[kind]}", path, trust_remote_code=trust_remote_code)
        if heads := [weight for weight in missing if "pooler" not in weight]:
            raise UserError(
                f"model {str(name)!r} has no trained head to {kind} with ({heads[0]} is not in its weights): give a fine-tuned model"
                " (as a teacher, a matrix of its logits will do)"
            )
        if kind == "tag" and not getattr(tokenizer, "is_fast", False):
            raise UserError(f"model {str(name)!r} has a tokenizer that does not tell which word a token is of: give a matrix of its logits")
        if kind == "classify" and (model.config.num_labels < 2 or model.config.problem_type in _NO_CLASSES):
            what = model.config.problem_type or "one number a text"
            raise UserError(
                f"model {str(name)!r} gives {what}, of which no class is the likeliest: give a classifier that chooses one of two classes or more"
            )
        if tokenizer.pad_token is None:  # texts of a batch are filled up to one length
            if tokenizer.eos_token is None:
                raise UserError(
                    f"model {str(name)!r} has a tokenizer without a padding token and without an end token: give it one of them"
                )
            tokenizer.pad_token = tokenizer.eos_token
        if model.config.pad_token_id is None:  # who reads a text's last token looks for it by this
            model.config.pad_token_id = tokenizer.pad_token_id
        own = [str(model.config.id2label[number]) for number in range(model.config.num_labels)]
        outputs = checked_names(names or own, outputs=len(own), what="labels" if kind == "classify" else "tags", model=str(name))
        return cls(model.to(choose_device(device)), tokenizer, name=str(name), **{"labels" if kind == "classify" else "tags": outputs})

    def logits(self, texts: Iterable[str], *, progress: Progress | None = None) -> list[np.ndarray]:
        """Compute the logits of each text (classes,), or of its tokens (tokens, tags): what blanks part, each by its first piece.

        A token beyond the model's limit has nan.
        """
        texts = list_texts(texts)
        found: list[Any] = [None] * len(texts)
        order = np.argsort([len(text) for text in texts], kind="stable")
        self.truncated = 0
        with (progress or Progress.silent()).task("label", len(texts)) as task, torch.inference_mode():
            for start in range(0, len(order), _BATCH_TEXTS):
                batch = [int(place) for place in order[start : start + _BATCH_TEXTS]]
                for place, logits in zip(batch, self._logits([texts[place] for place in batch]), strict=True):
                    found[place] = logits
                task.advance(len(batch))
        return found

    def fingerprint(self) -> str:
        """SHA-256 of weights and tokenizer."""
        return weights_fingerprint(self._model, self._tokenizer)

    def predict(self, texts: Iterable[str], *, progress: Progress | None = None) -> list[Prediction]:
        """Tell each text's class, or its tokens' tags."""
        return [self._said(logits) for logits in self.logits(texts, progress=progress)]

    def _said(self, logits: np.ndarray) -> Prediction:
        if self.tags:
            is_read = np.isfinite(logits[:, 0])
            best = np.where(is_read[:, None], logits, -np.inf).argmax(axis=1)
            return Prediction(tags=[self.tags[int(tag)] if read else "O" for tag, read in zip(best, is_read, strict=True)])
        shares = np.exp(logits - logits.max())
        return Prediction(label=self.labels[int(shares.argmax())], chance=float(shares.max() / shares.sum()))

    def _logits(self, texts: list[str]) -> list[np.ndarray]:
        words = [tokens_of(text) for text in texts] if self.tags else []
        encoded = self._tokenizer(
            words or texts,
            is_split_into_words=bool(self.tags),
            padding=True,
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        )
        lengths = encoded["attention_mask"].sum(dim=1).tolist()
        full = [place for place, length in enumerate(lengths) if length == self.max_tokens]  # cut, unless they just fit
        logits = self._model(**encoded.to(self._model.device)).logits.float().cpu().numpy()
        if not self.tags:
            longer = self.max_tokens + 1
            self.truncated += sum(
                len(self._tokenizer(texts[place], truncation=True, max_length=longer)["input_ids"]) == longer for place in full
            )
            return list(logits)
        found = [_first_pieces(row, encoded.word_ids(place), len(words[place])) for place, row in enumerate(logits)]
        self.truncated += sum(bool(np.isnan(found[place][-1]).any()) for place in full)
        return found


def is_labeller(name: str | Path) -> bool:
    """True where a model's config names a head for classes or tags.

    Raises:
        UserError: As ``saved.locate``.
    """
    return _named_kind(locate(str(name))) is not None


def checked_names(names: Sequence[str], *, outputs: int, what: str, model: str) -> tuple[str, ...]:
    """Give names of outputs back, if they can be.

    Args:
        names: Of classes or tags.
        outputs: How many the model has.
        what: ``labels`` or ``tags``.
        model: What the user called it.

    Raises:
        UserError: They are more or fewer, or one of them occurs twice.
    """
    if len(names) != outputs:
        raise UserError(
            f"teacher {model!r} has logits of {outputs} {what}, but {len(names)} names are given: give the file that belongs to it"
        )
    if len(set(names)) != len(names):
        raise UserError(f"the {what} of teacher {model!r} name one twice: give each once")
    return tuple(names)


def _named_kind(path: str) -> Kind | None:
    """Which head the folder's config names, if any."""
    import transformers

    try:
        architectures = transformers.AutoConfig.from_pretrained(path).architectures or []
    except loading_errors() as error:
        if not Path(path).is_dir():  # a hub's name; a folder may be of another kind
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"model {path!r} cannot be loaded ({reason}): give a model folder, or a hub name you can reach") from None
        architectures = []
    for kind, head in _HEADS.items():
        if any(architecture.endswith(head) for architecture in architectures):
            return kind
    return None


def _first_pieces(logits: np.ndarray, owners: Sequence[int | None], words: int) -> np.ndarray:
    """A word's logits are those of its first piece, as taggers are trained; nan where it was cut off."""
    found = np.full((words, logits.shape[1]), np.nan, dtype=np.float32)
    for place in range(len(owners) - 1, -1, -1):
        owner = owners[place]
        if owner is not None:
            found[owner] = logits[place]
    return found

"""Transformers classifiers and taggers: texts in, logits or labels out."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from tain.encoders.headed import HeadedModel, TokenRow
from tain.foundation.errors import UserError, refuse_not_finite
from tain.foundation.machine import choose_device
from tain.foundation.progress import Progress
from tain.models.embedder import weights_fingerprint
from tain.models.loading import kind_of, load_with_missing, max_length, padding_id
from tain.models.saved import locate, refuse_pickles
from tain.models.unknown_tokens import WARN_FROM, check_known
from tain.text.collections import list_texts
from tain.text.records import Prediction
from tain.text.tags import tokens_of

Kind = Literal["classify", "tag"]

_HEADS: dict[Kind, str] = {"classify": "SequenceClassification", "tag": "TokenClassification"}
_CALLED: dict[Kind, str] = {"classify": "classifier", "tag": "tagger"}
_CALLED_KIND: dict[str, Kind] = {"classifier": "classify", "tagger": "tag"}
_NO_CLASSES = ("regression", "multi_label_classification")
_BATCH_TEXTS = 64
_PROBE = ("a", "one two three", "the first of some texts and the longest one")


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
        self.tokenizer = tokenizer
        self._is_script_known = True  # until texts are found that it largely does not know
        rows = [self._encoded([text])[0][0] for text in _PROBE]
        self._network = HeadedModel(model, pad_id=padding_id(model, tokenizer, name=name), probe=rows)

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
        of_folder = kind_of(path)
        if of_folder.head == "cross-encoder":
            raise UserError(
                f"model {str(name)!r} is a cross-encoder, which scores pairs of texts: use tain rank score, or give a classifier of two classes or more"
            )
        named = _CALLED_KIND.get(of_folder.head)
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
        if progress is not None and self._is_script_known:
            self._is_script_known = check_known(self, texts, progress=progress) < WARN_FROM
        with (progress or Progress.silent()).task("label", len(texts)) as task, torch.inference_mode():
            for start in range(0, len(order), _BATCH_TEXTS):
                batch = [int(index) for index in order[start : start + _BATCH_TEXTS]]
                for index, logits in zip(batch, self._logits([texts[index] for index in batch]), strict=True):
                    found[index] = logits
                task.advance(len(batch))
        return found

    def fingerprint(self) -> str:
        """SHA-256 of weights and tokenizer."""
        return weights_fingerprint(self._network.model, self.tokenizer)

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

    def _encoded(self, texts: list[str], *, max_tokens: int | None = None) -> tuple[list[TokenRow], Any]:
        """Tokenise texts, special tokens included: a row each, and what the tokenizer says beside."""
        encoded = self.tokenizer(
            [tokens_of(text) for text in texts] if self.tags else texts,
            is_split_into_words=bool(self.tags),
            truncation=True,
            max_length=max_tokens or self.max_tokens,
            return_attention_mask=False,
        )
        return [{name: encoded[name][index] for name in encoded} for index in range(len(texts))], encoded

    def _logits(self, texts: list[str]) -> list[np.ndarray]:
        rows, encoded = self._encoded(texts)
        logits = [each.cpu().numpy() for each in self._network(rows)]
        refuse_not_finite(np.array([each.sum() for each in logits]), self.name)
        full = [index for index, row in enumerate(rows) if len(row["input_ids"]) == self.max_tokens]  # cut, unless they just fit
        if not self.tags:
            longer = self.max_tokens + 1
            again = self._encoded([texts[index] for index in full], max_tokens=longer)[0] if full else []
            self.truncated += sum(len(row["input_ids"]) == longer for row in again)
            return logits
        found = [_first_pieces(each, encoded.word_ids(index), len(tokens_of(texts[index]))) for index, each in enumerate(logits)]
        self.truncated += sum(bool(np.isnan(found[index][-1]).any()) for index in full)
        return found


def is_labeller(name: str | Path) -> bool:
    """True where a model's config names a head for classes or tags.

    Raises:
        UserError: As ``saved.locate``.
    """
    return kind_of(locate(str(name))).head in _CALLED_KIND


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


def _first_pieces(logits: np.ndarray, owners: Sequence[int | None], words: int) -> np.ndarray:
    """A word's logits are those of its first piece, as taggers are trained; nan where it was cut off."""
    found = np.full((words, logits.shape[1]), np.nan, dtype=np.float32)
    for index in range(len(owners) - 1, -1, -1):
        owner = owners[index]
        if owner is not None:
            found[owner] = logits[index]
    return found

"""Label texts or tokens with transformers classifiers and taggers."""

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
from tain.models.kinds import kind_of
from tain.models.loading import load_with_missing, max_length, padding_id
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
    """A fine-tuned transformers classifier or tagger.

    Attributes:
        name: Name given by the user.
        labels: Class names in the order of the logits; empty for a tagger.
        tags: Tag names; empty for a classifier.
        size_bytes: Size of its weights in float32.
        truncated: Texts truncated by the last call.

    Examples:
        >>> import tain
        >>> labeller = tain.Labeller.load("classifier")
        >>> labeller.labels
        ('negative', 'positive')
        >>> [found] = labeller.predict(["a fine day"])
        >>> found.label in labeller.labels
        True
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, labels: tuple[str, ...] = (), tags: tuple[str, ...] = ()) -> None:
        self.name, self.labels, self.tags = name, labels, tags
        self.size_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
        self.max_tokens = max_length(model, tokenizer)
        self.truncated = 0
        self.tokenizer = tokenizer
        self._is_script_known = True  # False once most of the texts' tokens turn out to be unknown
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
        """Load a classifier or tagger from a folder or hub name.

        Args:
            name: Folder or hub name.
            kind: Head to load; default: the one named in its config.
            names: Class or tag names in the order of the logits; default: as in its config.
            device: Where it runs; default: a GPU if available.
            trust_remote_code: Allow Python code from its folder.

        Raises:
            UserError: It does not exist, has no trained head of that kind, or has more or fewer outputs than names.
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
            raise UserError(f"model {str(name)!r} is a {_CALLED[named]}, but a {_CALLED[kind]} is needed: give one")
        kind = kind or named
        if kind is None:
            raise UserError(
                f"model {str(name)!r} is neither a classifier nor a tagger: give a student, or a fine-tuned transformers model with such a head"
            )
        model, tokenizer, missing = load_with_missing(f"AutoModelFor{_HEADS[kind]}", path, trust_remote_code=trust_remote_code)
        if heads := [weight for weight in missing if "pooler" not in weight]:
            raise UserError(
                f"model {str(name)!r} has no trained head to {kind} with ({heads[0]} is not in its weights): give a fine-tuned model"
                " (for a teacher, a matrix of its logits also works)"
            )
        if kind == "tag" and not getattr(tokenizer, "is_fast", False):
            raise UserError(f"model {str(name)!r} has a tokenizer that does not map tokens to words: give a matrix of its logits")
        if kind == "classify" and (model.config.num_labels < 2 or model.config.problem_type in _NO_CLASSES):
            what = model.config.problem_type or "one number per text"
            raise UserError(
                f"model {str(name)!r} gives {what}, so no single class is the most likely: give a classifier that chooses one of two classes or more"
            )
        own = [str(model.config.id2label[number]) for number in range(model.config.num_labels)]
        outputs = checked_names(names or own, outputs=len(own), what="labels" if kind == "classify" else "tags", model=str(name))
        return cls(model.to(choose_device(device)), tokenizer, name=str(name), **{"labels" if kind == "classify" else "tags": outputs})

    def logits(self, texts: Iterable[str], *, progress: Progress | None = None) -> list[np.ndarray]:
        """Compute logits per text (classes,), or per word (words, tags), where words are split at blanks and use their first piece.

        Words beyond the model's length limit have nan.
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
        """Predict the class of each text, or the tags of its words."""
        return [self._said(logits) for logits in self.logits(texts, progress=progress)]

    def class_probabilities(self, texts: Iterable[str]) -> np.ndarray:
        """Probability of each class for each text, float32 (texts, classes), in the order of ``labels``.

        Raises:
            UserError: It is a tagger.
        """
        if not self.labels:
            raise UserError(f"model {self.name!r} is a tagger, so it has no classes")
        logits = np.stack(self.logits(texts)).astype(np.float32)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)

    def _said(self, logits: np.ndarray) -> Prediction:
        if self.tags:
            is_read = np.isfinite(logits[:, 0])
            best = np.where(is_read[:, None], logits, -np.inf).argmax(axis=1)
            return Prediction(tags=[self.tags[int(tag)] if read else "O" for tag, read in zip(best, is_read, strict=True)])
        shares = np.exp(logits - logits.max())
        return Prediction(label=self.labels[int(shares.argmax())], chance=float(shares.max() / shares.sum()))

    def _encoded(self, texts: list[str], *, max_tokens: int | None = None) -> tuple[list[TokenRow], Any]:
        """Tokenize texts, including special tokens: one row per text, and the tokenizer's encoding."""
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
        full = [index for index, row in enumerate(rows) if len(row["input_ids"]) == self.max_tokens]  # truncated, or exactly at the limit
        if not self.tags:
            longer = self.max_tokens + 1
            again = self._encoded([texts[index] for index in full], max_tokens=longer)[0] if full else []
            self.truncated += sum(len(row["input_ids"]) == longer for row in again)
            return logits
        found = [_first_pieces(each, encoded.word_ids(index), len(tokens_of(texts[index]))) for index, each in enumerate(logits)]
        self.truncated += sum(bool(np.isnan(found[index][-1]).any()) for index in full)
        return found


def is_labeller(name: str | Path) -> bool:
    """Whether a model's config names a classification or tagging head.

    Raises:
        UserError: As ``saved.locate``.
    """
    return kind_of(locate(str(name))).head in _CALLED_KIND


def checked_names(names: Sequence[str], *, outputs: int, what: str, model: str) -> tuple[str, ...]:
    """Check the names of a model's outputs.

    Args:
        names: Class or tag names.
        outputs: Number of the model's outputs.
        what: ``labels`` or ``tags``.
        model: Name given by the user.

    Raises:
        UserError: Their number differs from ``outputs``, or a name occurs twice.
    """
    if len(names) != outputs:
        raise UserError(f"teacher {model!r} has logits of {outputs} {what}, but {len(names)} names were given: give the matching file")
    if len(set(names)) != len(names):
        raise UserError(f"the {what} of teacher {model!r} name one twice: give each once")
    return tuple(names)


def _first_pieces(logits: np.ndarray, owners: Sequence[int | None], words: int) -> np.ndarray:
    """Logits per word, taken from its first piece, as taggers are trained; nan if it was truncated."""
    found = np.full((words, logits.shape[1]), np.nan, dtype=np.float32)
    for index in range(len(owners) - 1, -1, -1):
        owner = owners[index]
        if owner is not None:
            found[owner] = logits[index]
    return found

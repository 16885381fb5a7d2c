"""Quality figures of a student on held-out texts, against its teacher and given labels."""

import math
from collections.abc import Sequence

import numpy as np

from tain.evaluation.metrics import spearman
from tain.evaluation.tagging import slot_f1
from tain.foundation.vectors import unit_length
from tain.recipes.distil.data import DistillationData, LabelledTexts
from tain.text.records import Prediction

_COMPARED = 2000  # texts; memory grows with their square


def vector_figures(student: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
    """Compare a student's vectors with its teacher's.

    Returns:
        ``cosine``: mean cosine of the two vectors of a text. ``pairs``: Spearman correlation of the cosines between texts, for the first
        2,000. ``found``: share of texts for which their own teacher vector is the nearest.
    """
    ours, theirs = (unit_length(vectors) for vectors in (student, teacher))
    nearest = [(ours[start : start + _COMPARED] @ theirs.T).argmax(axis=1) for start in range(0, len(ours), _COMPARED)]
    first, other = ours[:_COMPARED], theirs[:_COMPARED]
    above = np.triu_indices(len(first), k=1)
    correlation = spearman((first @ first.T)[above], (other @ other.T)[above]) if len(first) > 2 else math.nan
    figures = {
        "cosine": float((ours * theirs).sum(axis=1).mean()),
        "pairs": correlation,
        "found": float((np.concatenate(nearest) == np.arange(len(ours))).mean()),
    }
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def label_figures(predictions: Sequence[Prediction], data: DistillationData) -> dict[str, float]:
    """Compute accuracy, slot F1 and the share of texts without an error, of the student and of its teacher, if any.

    Args:
        predictions: The student's prediction for each held-out text.
        data: The run's texts.

    Returns:
        ``student_accuracy``, ``teacher_slot_f1`` and so on, over the labelled (or tagged) texts; ``agreement``: share of texts with the
        same label from both.
    """
    held, teacher = data.held, _teachers_word(data)
    figures = {f"student_{name}": value for name, value in _against_people(held, predictions).items()}
    figures |= {f"teacher_{name}": value for name, value in _against_people(held, teacher).items()}
    if data.labels and data.held.taught.text is not None:
        figures["agreement"] = float(np.mean([one.label == other.label for one, other in zip(predictions, teacher, strict=True)]))
    return figures


def _teachers_word(data: DistillationData) -> list[Prediction]:
    taught = data.held.taught
    predictions = []
    for index in range(len(data.held)):
        label = tags = None
        if taught.text is not None:
            label = data.labels[int(taught.text[index].argmax())]
        if taught.tokens is not None:
            read = taught.tokens[index]
            best = np.where(np.isnan(read), -np.inf, read).argmax(axis=1)
            is_read = [bool(np.isfinite(row).any()) for row in read]
            tags = [data.tags[int(tag)] if has_tag else "O" for tag, has_tag in zip(best, is_read, strict=True)]
        predictions.append(Prediction(label=label, tags=tags))
    return predictions


def _against_people(held: LabelledTexts, predictions: Sequence[Prediction]) -> dict[str, float]:
    figures: dict[str, float] = {}
    both = list(zip(held.examples, predictions, strict=True))
    labelled = [one.label == example.label for example, one in both if example.label and one.label is not None]
    if labelled:
        figures["accuracy"] = float(np.mean(labelled))
    tagged = [(example, one.label, one.tags) for example, one in both if example.tags and one.tags is not None]
    if tagged:
        figures["slot_f1"] = slot_f1([example.tags or () for example, _, _ in tagged], [tags for _, _, tags in tagged])
        whole = [
            tags == list(example.tags or ()) and (label is None or not example.label or label == example.label)
            for example, label, tags in tagged
        ]
        figures["exact"] = float(np.mean(whole))
    return figures

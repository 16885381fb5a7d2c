"""Texts of a comparison: those that every recipe may train on, and held-out ones that none sees."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tain.evaluation.label_free import dropped_copies
from tain.foundation.errors import UserError
from tain.recipes.compare.config import FEWEST_HELD_OUT, CompareConfig
from tain.recipes.mirror.data import document_lines, has_documents, split_line
from tain.text.cleaning import drop_repeats, same_text_key
from tain.text.collections import each_item
from tain.text.lines import is_blank
from tain.text.records import Sentence


@dataclass(frozen=True)
class Material:
    """Texts of a comparison.

    Attributes:
        train: Texts that recipes may use.
        held: Held-out texts, all of them long enough for copies.
        documents: Running text without the held-out texts; None if there is none.
        counts: Numbers of texts: given, blank, repeated, held_out, train.
    """

    train: list[str]
    held: list[str]
    documents: list[Sentence] | None
    counts: dict[str, int] = field(default_factory=dict)

    def running_lines(self) -> Iterator[str]:
        """Documents as lines with an empty line between them, or else each text as a document."""
        sentences = self.documents or [Sentence(text, True) for text in self.train]
        for each in sentences:
            if each.begins_document:
                yield ""
            yield " ".join(each.text.split())

    def digest(self) -> str:
        """Hash of all texts and documents."""
        content = json.dumps([self.train, self.held, self.documents])
        return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def split_material(texts: Iterable[Any], config: CompareConfig, documents: Iterable[Any] | None = None) -> Material:
    """Drop repeats, hold out texts at random, and remove these from the documents.

    Args:
        texts: Texts, or lines with document boundaries (``Sentence``), which are documents if there are several of them.
        config: The settings.
        documents: Separate documents, as in ``mirror``.

    Raises:
        UserError: There are too few texts, or pairs instead of texts.
    """
    everything = list(each_item(texts))
    lines = None if documents is None else list(document_lines(documents))
    if everything and all(isinstance(each, Sentence) for each in everything):
        if lines is None and sum(line.begins_document for line in everything) > 1 and has_documents(everything):
            lines = everything
        everything = [sentence for line in everything for sentence in (split_line(line) if lines is everything else [line.text])]
    for number, each in enumerate(everything, start=1):
        if not isinstance(each, str):
            raise UserError(f"text number {number} is {each!r:.60}: a comparison needs single texts")
    given = [text for text in everything if not is_blank(text)]
    different = drop_repeats(given).texts
    order = np.random.default_rng([config.seed, 11]).permutation(len(different))
    can_measure = [index for index in order if dropped_copies(different[index], level=config.level) is not None]
    held = set(can_measure[: min(config.held_out, len(different) // 5)])
    if len(held) < FEWEST_HELD_OUT:
        needed = "4 letters" if config.level == "word" else "4 words"
        texts_are = "is 1 different text" if len(different) == 1 else f"are {len(different):,} different texts"
        raise UserError(
            f"there {texts_are}, of which {len(can_measure):,} have {needed} or more; {len(held)} to measure on are"
            f" too few: give at least {5 * FEWEST_HELD_OUT} texts of {needed} or more"
        )
    train = [different[index] for index in order if index not in held][: config.max_texts or None]
    held_texts = [different[index] for index in can_measure if index in held]
    keys = {same_text_key(text) for text in held_texts}
    kept = None if lines is None else list(without(lines, keys))
    counts = {"given": len(everything), "blank": len(everything) - len(given), "repeated": len(given) - len(different)}
    return Material(train, held_texts, kept, counts | {"held_out": len(held_texts), "train": len(train)})


def without(lines: Iterable[Sentence], excluded: set[str]) -> Iterator[Sentence]:
    """Yield lines without excluded sentences; what follows a removed sentence begins a document, so that no new neighbours arise.

    Args:
        lines: Lines, each possibly a paragraph.
        excluded: Keys of sentences or whole lines, by ``same_text_key``.
    """
    has_gap = False
    for line in lines:
        sentences = [line.text] if same_text_key(line.text) in excluded else split_line(line)
        if not any(same_text_key(sentence) in excluded for sentence in sentences):
            yield Sentence(line.text, line.begins_document or has_gap)
            has_gap = False
            continue
        run: list[str] = []
        begins = line.begins_document or has_gap
        for sentence in sentences:
            if same_text_key(sentence) not in excluded:
                run.append(sentence)
                continue
            if run:
                yield Sentence(" ".join(run), begins)
            run, begins = [], True
        if run:
            yield Sentence(" ".join(run), begins)
        has_gap = not run

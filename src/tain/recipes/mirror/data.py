"""Training data of mirroring: positive pairs, held-out texts, and counts of what was left out."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Int8

from tain.foundation.errors import UserError
from tain.recipes.mirror.config import MirrorTextsConfig
from tain.text.cleaning import drop_repeats, same_text_key
from tain.text.collections import each_item
from tain.text.lines import is_blank
from tain.text.records import Pair, Sentence
from tain.text.sentences import neighbouring_sentences

Kind = Literal["identity", "crops", "pair"]
IDENTITY, CROPS, PAIR = 0, 1, 2
_HELD_BLOCK, _HELD_EVERY, _MOST_HELD_NEIGHBOURS = 50, 40, 1000  # every fortieth block of fifty pairs of neighbours, at most a thousand


@dataclass(frozen=True)
class TrainingSet:
    """Positive pairs to train on, and held-out texts.

    Attributes:
        left: One text of each positive pair.
        right: The other text; equal to ``left`` if both views come from one text.
        kinds: How the two views are made: ``IDENTITY`` (the text twice, a span erased in one), ``CROPS`` (two random spans of the text)
            or ``PAIR`` (two texts).
        held_left: Texts that are not trained on.
        held_right: Their partners, if the user gave pairs; else equal to ``held_left``.
        is_paired: Whether the user gave the pairs.
        own_texts: The user's training texts, without sentences of separately given documents: token weights
            and whitening are fitted to them.
        counts: Numbers of texts left out, by reason.
        pool: Pairs of neighbouring sentences for training token vectors, including those in ``left`` and ``right``.
        held_neighbours: Pairs of neighbouring sentences that nothing is trained on.
    """

    left: list[str]
    right: list[str]
    kinds: Int8[np.ndarray, " texts"]
    held_left: list[str]
    held_right: list[str]
    is_paired: bool
    own_texts: list[str]
    counts: dict[str, int] = field(default_factory=dict)
    pool: list[Pair] = field(default_factory=list)
    held_neighbours: list[Pair] = field(default_factory=list)

    @property
    def is_identity(self) -> bool:
        """Whether every positive is a text paired with itself."""
        return not (self.kinds != IDENTITY).any()

    @property
    def is_of_single_texts(self) -> bool:
        """Whether every positive comes from a single text."""
        return not (self.kinds == PAIR).any()

    def digest(self) -> str:
        """Number of training texts, and a hash of the training texts in order and the held-out texts."""
        content: list[Any] = [self.left, [] if self.is_of_single_texts else self.right]
        content += [self.held_left, self.held_right if self.is_paired else []]
        if not (self.is_identity or self.is_paired):
            content.append(self.kinds.tolist())
        return f"{len(self.left):,}, digest {hashlib.blake2b(json.dumps(content).encode(), digest_size=6).hexdigest()}"


def training_set(texts: Iterable[Any], config: MirrorTextsConfig, documents: Iterable[Any] | None = None) -> TrainingSet:
    """Drop repeats, hold out texts, and form the positive pairs that ``config`` asks for.

    Args:
        texts: Texts, pairs of texts, or sentences with document boundaries (``Sentence``).
        config: Settings, with those of the texts filled in.
        documents: Documents whose neighbouring sentences are positives: each a list of lines, or consecutive ``Sentence`` items.
            Default: the documents of ``texts``.

    Raises:
        UserError: Too few texts, no neighbouring sentences for ``neighbours``, or items of several kinds.
    """
    everything = list(each_item(texts))
    kinds = config.positive_kinds
    own: list[Sentence] = []
    if everything and all(isinstance(each, Sentence) for each in everything):
        own = everything
        is_split = "neighbours" in kinds and documents is None
        everything = [sentence for line in own for sentence in (split_line(line) if is_split else [line.text])]
    _refuse_what_is_no_text(everything)
    is_paired = bool(everything) and not isinstance(everything[0], str)
    if is_paired and kinds != ("identity",):
        raise UserError(f"the texts are pairs, which already are positives: leave out --positives {config.positives}, or give single texts")
    if documents is not None and "neighbours" not in kinds and not config.is_best_for_words:
        raise UserError("documents only apply to neighbouring sentences: give --positives neighbours, or leave --documents out")
    given = [each for each in everything if not (any(map(is_blank, each)) if is_paired else is_blank(each))]
    fills_batch = config.trains and "neighbours" not in kinds  # else batches come from pairs of neighbours, or there are none
    different = _without_repeats(given, is_paired=is_paired)
    kept = given if config.keep_duplicates else different
    _refuse_too_few(len(different), len(given), len(kept), config, needs_batch=fills_batch)
    rng = np.random.default_rng([config.seed, 1])
    order = rng.permutation(len(kept))
    held = _held_out(len(kept), config, fills_batch=fills_batch)
    rest = order[held:]
    if config.keep_duplicates or is_paired:  # otherwise no text occurs twice
        sides = [{same_text_key(text) for text in ([each] if isinstance(each, str) else each)} for each in kept]
        is_held = set().union(*(sides[index] for index in order[:held]))
        rest = np.array([index for index in rest if not sides[index] & is_held], dtype=np.int64)
    trained = rest[: config.max_texts or None]
    fewest = config.batch_texts if fills_batch and config.budget_s is None else 2
    if len(trained) < fewest:
        raise UserError(
            f"{held:,} texts are held out, and {len(trained):,} others are left to train on, fewer than {fewest:,}: "
            "give more texts, a smaller --held-out or --batch-texts, or more --max-texts"
        )
    counts = {
        "given": len(everything),
        "blank": len(everything) - len(given),
        "repeated": len(given) - len(different),
        "held_out": held,
        "left_over": len(kept) - held - len(trained),
    }

    def side(indices: np.ndarray, number: int) -> list[str]:
        return [kept[index][number] if is_paired else kept[index] for index in indices]

    left, right, held_left, held_right = (side(indices, number) for indices in (trained, order[:held]) for number in (0, 1))
    if is_paired:
        return TrainingSet(left, right, np.full(len(left), PAIR, dtype=np.int8), held_left, held_right, True, [*left, *right], counts)
    made: list[tuple[str, str, int]] = [
        (text, text, {"identity": IDENTITY, "crops": CROPS}[kind]) for kind in kinds if kind != "neighbours" for text in left
    ]
    pool: list[Pair] = []
    held_neighbours: list[Pair] = []
    has_lines = documents is not None or has_documents(own)
    if "neighbours" in kinds or (config.is_best_for_words and config.trains_token_vectors and has_lines):
        lines = own if documents is None else document_lines(documents)
        pool, held_neighbours, counts["neighbours"] = _neighbours(lines, config, held_left)
    if "neighbours" in kinds:
        made += [(pair.left, pair.right, PAIR) for pair in pool[: config.max_pairs or None]]
    return TrainingSet(
        [each[0] for each in made],
        [each[1] for each in made],
        np.array([each[2] for each in made], dtype=np.int8),
        held_left,
        held_right,
        False,
        left,
        counts,
        pool if config.trains_token_vectors else [],
        held_neighbours,
    )


def has_documents(texts: Sequence[Any]) -> bool:
    """Whether the texts are lines with document boundaries, so that they have neighbouring sentences."""
    if not texts or not all(isinstance(each, Sentence) for each in texts):
        return False
    return next(iter(neighbouring_sentences(texts)), None) is not None


def split_line(line: Sentence) -> list[str]:
    """Split a line into sentences; a line with one sentence is unchanged."""
    from tain.text.sentences import split_sentences

    return split_sentences(line.text) or [line.text]


def _without_repeats(given: list[Any], *, is_paired: bool) -> list[Any]:
    if not is_paired:
        return drop_repeats(given).texts
    first = {(same_text_key(left), same_text_key(right)): (left, right) for left, right in reversed(given)}
    return list(reversed(first.values()))


def _refuse_too_few(different: int, given: int, kept: int, config: MirrorTextsConfig, *, needs_batch: bool) -> None:
    repeated = f" ({given - kept:,} were repeats)" if kept < given else ""
    if different < 2:
        raise UserError(
            f"there {'is 1 different text' if different else 'are no texts'}{repeated}, but a text needs others as negatives: give at least 2"
        )
    if needs_batch and kept < config.batch_texts and config.budget_s is None:
        raise UserError(
            f"there are {kept:,} different texts{repeated}, fewer than a batch of {config.batch_texts}: "
            f"give more texts, or --batch-texts {max(2, kept // 2)}"
        )


def _held_out(kept: int, config: MirrorTextsConfig, *, fills_batch: bool) -> int:
    spare = kept - config.max_texts if config.max_texts else 0
    held = min(config.held_out, max(kept // 10, min(spare, config.held_out)))
    return min(held, max(0, kept - config.batch_texts)) if config.budget_s is None and fills_batch else held


def _neighbours(lines: Iterable[Sentence], config: MirrorTextsConfig, held: Sequence[str]) -> tuple[list[Pair], list[Pair], int]:
    """Sample pairs of neighbouring sentences without held-out texts, in random order; hold out some pairs; and count those not held out.

    The sample is large enough for the encoder and for the token vectors. Pairs are held out in blocks, because pairs that follow each other
    have a sentence in common.
    """
    most = max(config.max_pairs, config.anchor_pairs) if config.max_pairs and config.trains_token_vectors else config.max_pairs
    excluded = {same_text_key(text) for text in held}
    rng = np.random.default_rng([config.seed, 5])
    drawn: list[Pair] = []
    found = 0
    apart: list[Pair] = []
    for number, pair in enumerate(neighbouring_sentences(lines)):
        if excluded and (same_text_key(pair.left) in excluded or same_text_key(pair.right) in excluded):
            continue
        is_held_block = number // _HELD_BLOCK % _HELD_EVERY == _HELD_EVERY // 2
        if config.chooses_static_share and is_held_block and len(apart) < _MOST_HELD_NEIGHBOURS:
            apart.append(pair)
            continue
        found += 1
        if not most or len(drawn) < most:
            drawn.append(pair)
        elif (index := int(rng.integers(found))) < most:  # reservoir sampling: each pair is kept with the same probability
            drawn[index] = pair
    fewest = config.batch_texts if config.budget_s is None else 2
    if found < fewest:
        raise UserError(
            f"the documents have {found:,} pairs of neighbouring sentences, fewer than {fewest:,}: give documents of several sentences "
            "(an empty line between documents, or --document-column), more of them, or --positives crops"
        )
    return [drawn[index] for index in rng.permutation(len(drawn))], apart, found


def document_lines(documents: Iterable[Any]) -> Iterator[Sentence]:
    """Yield the lines of documents, with document boundaries.

    Args:
        documents: Each a list of lines, or consecutive ``Sentence`` items, which pass through.

    Raises:
        UserError: An item is neither.
    """
    if isinstance(documents, str):
        raise UserError("documents are one string: give a list of documents, each a list of lines")
    for number, document in enumerate(documents, start=1):
        if isinstance(document, Sentence):
            yield document
        elif isinstance(document, list | tuple) and all(isinstance(line, str) for line in document):
            yield from (Sentence(line, index == 0) for index, line in enumerate(document))
        else:
            raise UserError(f"document number {number} is {document!r:.60}: give each document as a list of its lines or sentences")


def _refuse_what_is_no_text(given: list[Any]) -> None:
    kinds = Counter(isinstance(text, str) for text in given)
    if len(kinds) > 1:
        raise UserError("texts and pairs are mixed: give all of one kind")
    for index, each in enumerate(given if False in kinds else []):
        if not isinstance(each, tuple | list) or len(each) != 2 or not all(isinstance(side, str) for side in each):
            raise UserError(f"text number {index + 1} is {each!r:.60}: give texts, or pairs of two texts")

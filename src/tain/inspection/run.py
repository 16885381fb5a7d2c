"""Inspect a model on texts: which tokens contribute to its token vectors, and why two texts are similar."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tain.batches.packing import batches_by_tokens, pack
from tain.batches.tokenizing import tokenise
from tain.evaluation.label_free import label_free_report
from tain.evaluation.metrics import spearman
from tain.foundation.choices import wrong_seed
from tain.foundation.errors import UserError, refuse_all
from tain.foundation.machine import set_dtype
from tain.foundation.progress import Progress
from tain.inspection.capturing import BlockStates, Watched, recomputed, relative_error
from tain.inspection.mixing import MixingMeter, PieceKinds
from tain.inspection.norms import METHODS, expansion_rate, mixing_ratios, text_norms
from tain.inspection.results import Comparison, Inspection, SimilarityInspection, TextInspection
from tain.inspection.similarity import token_pair_contributions
from tain.inspection.whole_layer import LAYER_METHOD, layer_norms, layer_ratios
from tain.models.correction import LanguageCorrection, LinearCorrection
from tain.models.embedder import Embedder
from tain.models.layers import LayerStack
from tain.models.masked_lm import refuse_without_mask
from tain.models.unknown_tokens import WARN_FROM, check_known
from tain.text.cleaning import same_text_key
from tain.text.collections import each_item, each_text
from tain.text.lines import is_blank
from tain.text.windows import windows

_WINDOW_TEXTS = 2048  # texts tokenized and sorted by length together
_UNCUT = 10**9  # tokens
_MOST_WEIGHTS = 2**30  # of the shown texts: 4 GB in float32
_MOST_PAIRED = 12  # texts with explained similarities: 66 pairs
_WINDOW_CHARACTERS = 2_000_000
_GEOMETRY = ("isotropy", "mean_vector_norm", "mean_vector_share", "mean_length", "mean_cosine", "uniformity")

InspectionDtype = Literal["float32", "float64"]


@dataclass(frozen=True)
class _Tokenised:
    """A tokenized text.

    Attributes:
        text: The given text.
        ids: Token ids, including special tokens, truncated at the limit.
        cut: Number of removed tokens.
    """

    text: str
    ids: list[int]
    cut: int


def inspect(
    model: str | Path | Embedder,
    texts: str | Iterable[str],
    *,
    shown: int = 4,
    whole_layer: bool = False,
    masking_rate: float = 0.0,
    max_tokens: int | None = None,
    batch_tokens: int = 4096,
    dtype: InspectionDtype = "float32",
    device: str | None = None,
    trust_remote_code: bool = False,
    seed: int = 13,
    progress: Progress | bool | None = None,
) -> Inspection:
    """Decompose the attention blocks of a model on some texts (Kobayashi et al. 2021).

    Args:
        model: A folder, a hub name, ``tain-mini``, or a loaded embedder (inspected in its current data type).
        texts: One text, several, or a stream. A single text, and each text in a list, must have tokens; in a stream, texts with special
            tokens only are skipped and counted.
        shown: Number of texts, from the first, that are also shown token by token: layers x heads x tokens x tokens weights each.
            Similarities are explained among the first twelve.
        whole_layer: Also decompose whole layers, including the feed-forward part: method ``Layer-N``. Costs about a pass per shown token.
        masking_rate: For the statistics, mask this share of each text's tokens, at least one. The paper uses 0.12 for ratios, and 0 for
            their correlation with frequency.
        max_tokens: Truncate texts at this length, including special tokens; default: the model's limit.
        batch_tokens: Tokens per forward pass; affects speed and memory only.
        dtype: Data type of a model given by name; ``float64`` for audits.
        device: Torch device name; default: a GPU if available.
        trust_remote_code: Allow Python code from the model's folder.
        seed: Seed of the masking.
        progress: Receives progress updates.

    Raises:
        UserError: The settings, texts or model are invalid.

    Examples:
        >>> import tain
        >>> found = tain.inspect_model("tain-mini", ["rivers run to the sea", "a river ends in the sea"])
        >>> found.layers, found.texts[0].tokens[1:3]
        (8, ('rivers', 'run'))
        >>> found.texts[0].ratios.shape  # layers, methods, tokens
        (8, 5, 7)
    """
    _refuse_settings(shown=shown, masking_rate=masking_rate, batch_tokens=batch_tokens, dtype=dtype, seed=seed)
    given = _given(texts)
    embedder = _loaded(model, max_tokens=max_tokens, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    return _inspected(
        embedder,
        Watched(embedder.encoder),
        given,
        shown=shown,
        whole_layer=whole_layer,
        masking_rate=masking_rate,
        batch_tokens=batch_tokens,
        seed=seed,
        progress=Progress.resolve(progress),
    )


def inspect_against(
    model: str | Path | Embedder,
    against: str | Path | Embedder,
    texts: str | Iterable[str],
    *,
    shown: int = 4,
    whole_layer: bool = False,
    masking_rate: float = 0.0,
    max_tokens: int | None = None,
    batch_tokens: int = 4096,
    dtype: InspectionDtype = "float32",
    device: str | None = None,
    trust_remote_code: bool = False,
    seed: int = 13,
    progress: Progress | bool | None = None,
) -> Comparison:
    """Inspect two models on the same texts, such as before and after mirroring.

    Args:
        model: The first model, as in ``inspect``.
        against: The second model; changes are second minus first.
        texts: As in ``inspect``, but all kept in memory, since both models read them.
        shown: As in ``inspect``.
        whole_layer: As in ``inspect``.
        masking_rate: As in ``inspect``.
        max_tokens: Length limit; default: the limit of each model.
        batch_tokens: As in ``inspect``.
        dtype: As in ``inspect``.
        device: As in ``inspect``.
        trust_remote_code: Allow Python code from the models' folders.
        seed: Seed of the masking, and of the directions for the geometry figures.
        progress: Receives progress updates.

    Raises:
        UserError: As in ``inspect``.

    Examples:
        >>> import tain
        >>> compared = tain.inspect_against("tain-mini", "tain-mini", ["rivers run to the sea", "a river ends in the sea"])
        >>> bool((compared.change() == 0).all())
        True
    """
    _refuse_settings(shown=shown, masking_rate=masking_rate, batch_tokens=batch_tokens, dtype=dtype, seed=seed)
    given = _given(texts)
    kept = given if isinstance(given, list) else _Kept(given)
    loaded = [
        _loaded(each, max_tokens=max_tokens, dtype=dtype, device=device, trust_remote_code=trust_remote_code) for each in (model, against)
    ]
    watched = [Watched(each.encoder) for each in loaded]  # refuse unsupported models before inspecting the first
    first, second = (
        _inspected(
            embedder,
            watching,
            kept,
            shown=shown,
            whole_layer=whole_layer,
            masking_rate=masking_rate,
            batch_tokens=batch_tokens,
            seed=seed,
            progress=Progress.resolve(progress),
        )
        for embedder, watching in zip(loaded, watched, strict=True)
    )
    return Comparison(first=first, second=second, geometry=_geometry(loaded, list(kept), seed=seed))


def _inspected(
    embedder: Embedder,
    watched: Watched,
    texts: Iterable[str],
    *,
    shown: int,
    whole_layer: bool,
    masking_rate: float,
    batch_tokens: int,
    seed: int,
    progress: Progress,
) -> Inspection:
    """Read all texts once for the statistics, then inspect the first ones token by token."""
    if masking_rate:
        refuse_without_mask(embedder.tokenizer, embedder.name)
    kinds = PieceKinds(embedder.tokenizer)
    reading = _Reading(embedder, texts)
    methods = (*METHODS, LAYER_METHOD) if whole_layer else METHODS
    meter = MixingMeter(methods, layers=watched.layers, vocabulary=_vocabulary(embedder))
    rng = np.random.default_rng(seed)
    heads = int(embedder.encoder.model.config.num_attention_heads)
    first: list[_Tokenised] = []
    with progress.task("inspect", len(texts) if isinstance(texts, Sequence) else None) as task:
        is_known = True
        for window in reading.windows():
            if is_known:
                is_known = check_known(embedder, [text.text for text in window], progress=progress) < WARN_FROM
            first.extend(window[: max(0, shown - len(first))])
            _refuse_large(first, layers=watched.layers, heads=heads)
            ids = [_masked(text.ids, embedder.tokenizer, rate=masking_rate, rng=rng) for text in window]
            for batch in batches_by_tokens([len(text) for text in ids], batch_tokens=batch_tokens):
                _measure([ids[index] for index in batch], watched, meter, whole_layer=whole_layer)
                task.advance(len(batch))
    if not meter.texts:
        raise UserError("none of the texts has tokens other than special ones: give texts with words")
    looked_at = [_look(text, watched, embedder, kinds, methods=methods) for text in first]
    found = tuple(text for text, _ in looked_at)
    why_not = _why_no_similarity(embedder)
    paired = found[:_MOST_PAIRED]
    if len(found) > len(paired) and not why_not:
        progress.note(f"similarities are explained among the first {_MOST_PAIRED} of the {len(found)} texts shown")
    return Inspection(
        model=embedder.name,
        architecture=type(embedder.encoder.model).__name__,
        is_post=watched.is_post,
        layers=watched.layers,
        heads=heads,
        statistics=meter.statistics(kinds, special=kinds.special, correlation=spearman),
        expansion_rates=_expansion_rates(watched),
        texts=found,
        similarities=() if why_not else tuple(_similarity(paired, *pair) for pair in combinations(range(len(paired)), 2)),
        why_no_similarity=why_not,
        truncated=reading.truncated,
        cut_tokens=reading.cut_tokens,
        max_tokens=embedder.max_tokens,
        left_out=reading.left_out,
        masking_rate=masking_rate,
        seed=seed,
        error=max([watched.error, *(error for _, error in looked_at)]),
    )


class _Kept(Iterable[str]):
    """Texts of a stream, kept for repeated reading; unlike those of a list, some may be empty."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = list(texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)


class _Reading:
    """Iterator over texts, tokenized in windows; counts truncated and skipped texts."""

    def __init__(self, embedder: Embedder, texts: Iterable[str]) -> None:
        self._embedder = embedder
        self._texts = texts
        self._is_list = isinstance(texts, Sequence)
        tokenizer = embedder.tokenizer
        self._empty = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}  # an unknown word is a word
        self.truncated = 0
        self.cut_tokens = 0
        self.left_out = 0

    def windows(self) -> Iterator[list[_Tokenised]]:
        number = 0
        for window in windows(self._texts, most=_WINDOW_TEXTS, characters=_WINDOW_CHARACTERS, text_of=str):
            found = [self._tokenised(text, ids) for text, ids in zip(window, self._ids(window, _UNCUT), strict=True)]
            if self._is_list:
                for index, text in enumerate(found, start=number + 1):
                    if text is None:
                        raise UserError(f"text {index} ({window[index - number - 1]!r}) has only special tokens: give a text with words")
            self.left_out += sum(text is None for text in found)
            number += len(window)
            yield [text for text in found if text is not None]

    def _ids(self, texts: list[str], max_tokens: int) -> list[list[int]]:
        return tokenise(self._embedder.tokenizer, texts, max_tokens=max_tokens).ids

    def _tokenised(self, text: str, ids: list[int]) -> _Tokenised | None:
        if self._empty.issuperset(ids):
            return None
        limit, whole = self._embedder.max_tokens, len(ids)
        if whole > limit:
            (ids,) = self._ids([text], limit)
            self.truncated += 1
            self.cut_tokens += whole - len(ids)
        return _Tokenised(text, ids, whole - len(ids))


def _measure(ids: list[list[int]], watched: Watched, meter: MixingMeter, *, whole_layer: bool) -> None:
    """Add the ratios of one batch to the meter."""
    packed = pack(ids)
    by_layer: list[Tensor] = []

    watched.run(packed, lambda _, states: by_layer.append(_ratios(states, whole_layer=whole_layer)))
    meter.add(packed.ids.to(by_layer[0].device), torch.stack(by_layer), texts=len(ids))


def _ratios(states: BlockStates, *, whole_layer: bool) -> Float[Tensor, "methods tokens"]:
    ratios = mixing_ratios(states)
    return torch.cat([ratios, layer_ratios(states)[None]]) if whole_layer else ratios


def _look(
    given: _Tokenised, watched: Watched, embedder: Embedder, kinds: PieceKinds, *, methods: Sequence[str]
) -> tuple[TextInspection, float]:
    """Decompose one text token by token; also returns the reconstruction error."""
    whole_layer = LAYER_METHOD in methods
    ratios: list[Tensor] = []
    weights: list[Tensor] = []
    lengths: list[Tensor] = []
    norms: dict[str, list[Tensor]] = {name: [] for name in ("Attn-N", "AttnRes-N", "AttnResLn-N", *([LAYER_METHOD] if whole_layer else []))}
    errors: list[float] = []

    def show(_: int, states: BlockStates) -> None:
        (found,) = text_norms(states)
        ratios.append(_ratios(states, whole_layer=whole_layer))
        weights.append(found.weights)
        lengths.append(found.head_lengths)
        for name, matrix in (("Attn-N", found.attention), ("AttnRes-N", found.with_residual), ("AttnResLn-N", found.normed)):
            norms[name].append(matrix)
        if whole_layer:
            norms[LAYER_METHOD].extend(layer_norms(states))
        errors.append(relative_error(recomputed(states), states.outputs))

    vectors = watched.run(pack([given.ids]), show)
    found = TextInspection(
        text=given.text,
        tokens=tuple(kinds.shown(piece) for piece in given.ids),
        kinds=tuple(kinds(piece) for piece in given.ids),
        cut=given.cut,
        methods=tuple(methods),
        ratios=_numpy(ratios),
        weights=_numpy(weights),
        head_lengths=_numpy(lengths),
        norms={name: _numpy(matrices) for name, matrices in norms.items()},
        vectors=_pooled_vectors(vectors, embedder),
    )
    return found, max(errors)


def _numpy(layers: list[Tensor]) -> np.ndarray:
    return torch.stack(layers).cpu().numpy()


def _pooled_vectors(vectors: Float[Tensor, "tokens dim"], embedder: Embedder) -> np.ndarray:
    """Token vectors with the text's vector as mean: a linear correction of the mean can be applied to each of them."""
    found = vectors.cpu().numpy()
    correction = embedder.correction
    return correction.apply(found.astype(np.float32)) if isinstance(correction, LinearCorrection) else found


def _why_no_similarity(embedder: Embedder) -> str:
    if embedder.pooling != "mean":
        return f"vectors are pooled by {embedder.pooling}, but only a plain mean is a sum over tokens"
    if isinstance(embedder.correction, LanguageCorrection):
        return "vectors have a per-language correction, which is not a sum over tokens"
    if isinstance(embedder.correction, LayerStack):
        return "vectors pass through layers that are not linear, so they are not a sum over tokens"
    if embedder.default_prompt:
        return "vectors are those of texts with a prompt before them"
    if embedder.kept_dims is not None:
        return "only the first numbers of the vectors are kept"
    return ""


def _similarity(texts: Sequence[TextInspection], left: int, right: int) -> SimilarityInspection:
    contributions = token_pair_contributions(texts[left].vectors, texts[right].vectors)
    return SimilarityInspection(left=left, right=right, cosine=float(contributions.sum()), contributions=contributions)


def _expansion_rates(watched: Watched) -> tuple[float, ...]:
    rates = [expansion_rate(block) for block in watched.blocks]
    return tuple(rates[layer % len(rates)] for layer in range(watched.layers))  # ALBERT shares one layer


def _geometry(models: Sequence[Embedder], texts: list[str], *, seed: int) -> tuple[dict[str, float], dict[str, float]] | None:
    if len({same_text_key(text) for text in texts}) < 2 or any(each.languages for each in models):
        return None
    reports = [label_free_report(each, texts, rng=np.random.default_rng(seed)) for each in models]
    first, second = ({name: float(getattr(report, name)) for name in _GEOMETRY} for report in reports)
    return first, second


def _masked(ids: list[int], tokenizer: Any, *, rate: float, rng: np.random.Generator) -> list[int]:
    """Mask a share of the tokens that are not special, at least one."""
    if not rate:
        return ids
    special = set(tokenizer.all_special_ids)
    indices = [index for index, piece in enumerate(ids) if piece not in special]
    if not indices:
        return ids
    hidden = set(rng.choice(indices, size=max(1, round(rate * len(indices))), replace=False).tolist())
    return [tokenizer.mask_token_id if index in hidden else piece for index, piece in enumerate(ids)]


def _loaded(
    model: str | Path | Embedder, *, max_tokens: int | None, dtype: InspectionDtype, device: str | None, trust_remote_code: bool
) -> Embedder:
    if not isinstance(model, Embedder):
        embedder = Embedder.load(
            model, device=device, dtype="float32", max_tokens=max_tokens, below_head=True, trust_remote_code=trust_remote_code
        )
        embedder.refuse_other_networks("norm analysis")
        set_dtype(embedder.encoder, getattr(torch, dtype))
        return embedder
    model.refuse_other_networks("norm analysis")
    if max_tokens is not None or device is not None:
        raise UserError(f"max_tokens or device is given, but model {model.name!r} is loaded already: give them to Embedder.load")
    stored = next(model.encoder.parameters()).dtype
    if stored not in (torch.float32, torch.float64):
        raise UserError(
            f"model {model.name!r} is loaded in {str(stored).removeprefix('torch.')}, which is too imprecise for an exact decomposition: "
            "load it with dtype='float32'"
        )
    return model


def _vocabulary(embedder: Embedder) -> int:
    return max(len(embedder.tokenizer), int(embedder.encoder.model.config.vocab_size))


def _refuse_settings(*, shown: int, masking_rate: float, batch_tokens: int, dtype: str, seed: int) -> None:
    problems = wrong_seed(seed)
    if shown < 0:
        problems.append(f"shown is {shown}: give the number of texts to show token by token, 0 or more")
    if not 0.0 <= masking_rate < 1.0:
        problems.append(f"masking_rate is {masking_rate}: give a share from 0 to below 1 (the paper: 0.12)")
    if batch_tokens < 1:
        problems.append(f"batch_tokens is {batch_tokens}, but a batch needs at least one token: give 1 or more (4096)")
    if dtype not in ("float32", "float64"):
        problems.append(f"dtype is {dtype!r}: give float32 or float64")
    refuse_all(problems)


def _refuse_large(texts: Sequence[_Tokenised], *, layers: int, heads: int) -> None:
    weights = sum(layers * heads * len(text.ids) ** 2 for text in texts)
    if weights > _MOST_WEIGHTS:
        longest = max(len(text.ids) for text in texts)
        raise UserError(
            f"the texts to show have up to {longest:,} tokens, and their {weights:,} attention weights would fill the memory: "
            "cut them with --max-tokens 1024, or show fewer with --shown"
        )


def _given(texts: str | Iterable[str]) -> list[str] | Iterator[str]:
    """Return a single text or a list as a list of non-empty texts, and anything else as a stream."""
    if not isinstance(texts, Sequence):
        return each_text(texts)
    listed = [texts] if isinstance(texts, str) else list(each_item(texts))
    _refuse_blank(listed)
    return listed


def _refuse_blank(texts: Sequence[str]) -> None:
    if not texts:
        raise UserError("no text was given: give one or more, or a file of them")
    for index, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise UserError(f"text {index} is {type(text).__name__}, not text: give strings")
        if is_blank(text):
            raise UserError(f"text {index} is empty: give a text with words")

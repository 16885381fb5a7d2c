"""Rankers: bi-, poly- and cross-encoders behind one interface.

Humeau et al. 2020 (Poly-encoders), section 4. The two towers share all weights or none; a bi-encoder is a poly-encoder with one vector
per context.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from safetensors.torch import save_file
from torch import Tensor, nn

from tain.batches.packing import batches_by_tokens, pack
from tain.batches.tokenizing import fingerprint as tokenizer_fingerprint
from tain.batches.tokenizing import separator_id, tokenise
from tain.encoders.heads import DualHead, PairHead, rows_of_tokens
from tain.foundation.choices import CodeKind
from tain.foundation.errors import UserError, refuse_not_finite
from tain.foundation.probing import evaluating
from tain.foundation.progress import Progress
from tain.foundation.ranker_record import described
from tain.foundation.tensors import read_tensors
from tain.models.correction import LanguageCorrection, LinearCorrection
from tain.models.cross_encoders import SavedCrossEncoder
from tain.models.dual_scoring import DualScoring, compares_by_cosine, refuse_unrankable
from tain.models.embedder import Embedder
from tain.models.layers import LayerStack
from tain.models.ranker_base import PairRanker, Ranker, StoredRanker, digest
from tain.models.saved import write_record, write_router
from tain.models.scanning import scan_all
from tain.models.timed_query import TimedQuery
from tain.text.collections import list_texts, matched_lists

_HEAD_FILE = "head.safetensors"


@dataclass(frozen=True)
class ContextVectors:
    """Vectors of several contexts, padded to the same number of vectors.

    Attributes:
        vectors: Context vectors; zeros as padding.
        is_vector: False at padding, where a short context has fewer vectors than codes.
    """

    vectors: Float[Tensor, "contexts codes dim"]
    is_vector: Bool[Tensor, "contexts codes"]

    def __len__(self) -> int:
        return len(self.vectors)

    def of(self, context: int) -> Float[Tensor, "own dim"]:
        """Vectors of one context, without padding."""
        return self.vectors[context][self.is_vector[context]]


class DualRanker(DualScoring, Ranker):
    """Bi- or poly-encoder: candidate vectors are independent of contexts and can be cached.

    Args:
        context: Encodes contexts up to its ``max_tokens``; truncates on the side set in its tokenizer.
        candidate: Encodes candidates; may share its encoder with ``context``.
        head: Scale and codes.
        name: Name shown in tables.
        record: Content of its ``tain.json``.
        correction: Applied to the pooled vectors of both sides, before the head; only for the kind ``pooled``.
    """

    scores_at_once = 10_000_000  # 40 MB

    def __init__(
        self,
        context: Embedder,
        candidate: Embedder,
        head: DualHead,
        *,
        name: str,
        record: dict[str, Any] | None = None,
        correction: LinearCorrection | LayerStack | None = None,
    ) -> None:
        super().__init__(name=name, record=record)
        self.context, self.candidate = context, candidate
        self.head = head.to(context.encoder.device)
        self._correction = None if correction is None else _as_layer(correction).to(context.encoder.device)
        self._dim = candidate.encoder.dim if correction is None else correction.dim
        self.type = "bi" if head.kind == "pooled" else "poly"
        self.vectors = head.vectors

    @classmethod
    def opened(cls, found: StoredRanker) -> "DualRanker | None":
        """Load any encoder, or a folder written by ``save``."""
        options = {"device": found.device, "trust_remote_code": found.trust_remote_code}
        if found.kind is not None:
            return cls.around(Embedder.load(found.name, dtype="float32", **options), name=found.name)
        if described(found.record, found.name)["type"] == "cross":
            return None
        return cls.read(Path(found.name), found.record, **options)

    @classmethod
    def around(cls, embedder: Embedder, *, name: str) -> "DualRanker":
        """Wrap a plain encoder as a bi-encoder with one tower; scores are cosines, or dot products if its folder asks for them.

        Lengths of vectors that were not trained for dot products drown the differences between texts.

        Its linear correction (a whitening, for example) is applied as in ``Embedder.encode``. Texts are truncated at the encoder's own
        limit; contexts lose their beginning, as in every ranker.

        Raises:
            UserError: It corrects vectors per language.
        """
        if isinstance(embedder.correction, LanguageCorrection):
            raise UserError(
                f"model {embedder.name!r} corrects its vectors by language, and rankers do not know the language of a text:"
                " give the encoder that it was made from"
            )
        refuse_unrankable(embedder)
        normalize = embedder.normalize or compares_by_cosine(embedder.sentence_transformers)
        head = DualHead("pooled", codes=1, dim=embedder.dim, scale=1.0, is_scale_learned=False, normalize=normalize)
        context = _side(embedder, embedder.encoder, max_tokens=embedder.max_tokens, cut="left", normalize=normalize)
        return cls(context, embedder, head, name=name, correction=embedder.correction)

    @classmethod
    def start(
        cls,
        embedder: Embedder,
        *,
        kind: CodeKind,
        codes: int,
        scale: float,
        is_scale_learned: bool,
        is_shared: bool,
        context_tokens: int,
        candidate_tokens: int,
        generator: torch.Generator,
        normalize: bool = False,
    ) -> "DualRanker":
        """Build an untrained ranker around an encoder, with one shared tower or two towers with equal weights.

        Args:
            embedder: The encoder; becomes the context's tower.
            kind: See ``DualHead``.
            codes: See ``DualHead``.
            scale: See ``DualHead``.
            is_scale_learned: See ``DualHead``.
            is_shared: One tower for both sides.
            context_tokens: Length limit of contexts; their beginning is cut, since the latest part matters most.
            candidate_tokens: Length limit of candidates.
            generator: Draws the codes.
            normalize: See ``DualHead``.
        """
        encoder = embedder.encoder
        own = encoder if is_shared else copy.deepcopy(encoder)
        context = _side(embedder, encoder, max_tokens=context_tokens, cut="left", normalize=normalize)
        candidate = _side(embedder, own, max_tokens=candidate_tokens, cut="right", normalize=normalize)
        settings = {"scale": scale, "is_scale_learned": is_scale_learned, "normalize": normalize}
        head = DualHead(kind, codes=codes, dim=embedder.encoder.dim, **settings, generator=generator)
        return cls(context, candidate, head, name=embedder.name)

    @classmethod
    def read(cls, folder: Path, record: dict[str, Any], *, device: str | None, trust_remote_code: bool) -> "DualRanker":
        """Load a ranker written by ``save``, in float32."""
        about = record["ranker"]
        layout = record.get("layout", "auto")

        def tower(path: Path) -> Embedder:
            _refuse_missing(path)
            return Embedder.load(path, device=device, dtype="float32", layout=layout, trust_remote_code=trust_remote_code)

        if about["shared"]:
            loaded = tower(folder if about["type"] == "bi" else folder / "encoder")
            encoders = loaded, loaded
        else:
            encoders = tower(folder / "context"), tower(folder / "candidate")
        normalize = about.get("normalise", False)
        context = _side(encoders[0], encoders[0].encoder, max_tokens=about["context_tokens"], cut="left", normalize=normalize)
        candidate = _side(encoders[1], encoders[1].encoder, max_tokens=about["candidate_tokens"], cut="right", normalize=normalize)
        settings = {"scale": 1.0, "is_scale_learned": about["learned_scale"], "normalize": normalize}
        head = DualHead(about["kind"], codes=about["codes"], dim=encoders[0].encoder.dim, **settings)
        _load_head(head, folder)
        return cls(context, candidate, head, name=str(folder), record=record)

    @property
    def searchable(self) -> "DualRanker":
        return self

    @property
    def is_shared(self) -> bool:
        return self.context.encoder is self.candidate.encoder

    @property
    def dim(self) -> int:
        return self._dim

    @property
    def module(self) -> nn.Module:
        return nn.ModuleDict({"context": self.context.encoder, "candidate": self.candidate.encoder, "head": self.head})

    @property
    def towers(self) -> tuple[Embedder, ...]:
        return (self.context,) if self.is_shared else (self.context, self.candidate)

    def _fingerprinted(self) -> str:
        """Hash everything a cached candidate vector depends on: candidate tower, correction, scale, tokenizer."""
        about = (tokenizer_fingerprint(self.candidate.tokenizer), self.candidate.max_tokens, self.candidate.pooling, self.head.normalize)
        tensors = {**self.candidate.encoder.state_dict(), "scale": self.head.scale}
        if self.candidate.encoder.token_weights is not None:
            tensors["token weights"] = self.candidate.encoder.token_weights
        if self._correction is not None:
            tensors |= {f"correction.{name}": tensor for name, tensor in self._correction.state_dict().items()}
        return digest(tensors, about)

    # ---- vectors

    def context_vectors(self, ids: Sequence[Sequence[int]], *, share_rows: bool = False) -> Float[Tensor, "contexts vectors dim"]:
        """Compute the vectors of tokenized contexts, with gradients if torch records them."""
        encoder = self.context.encoder
        packed = pack(ids, share_rows=share_rows and encoder.layout == "packed").to(encoder.device)
        if self.head.kind == "pooled":
            return self.head.pooled_contexts(self._corrected(encoder(packed)))
        return self.head.contexts(*rows_of_tokens(encoder.tokens(packed), packed))

    def candidate_vectors(self, ids: Sequence[Sequence[int]], *, share_rows: bool = False) -> Float[Tensor, "candidates dim"]:
        """Compute the vectors of tokenized candidates, with gradients if torch records them."""
        encoder = self.candidate.encoder
        packed = pack(ids, share_rows=share_rows and encoder.layout == "packed")
        return self.head.candidates(self._corrected(encoder(packed)))

    def _corrected(self, pooled: Float[Tensor, "texts width"]) -> Float[Tensor, "texts dim"]:
        return pooled if self._correction is None else self._correction(pooled.float())

    @torch.inference_mode()
    def encode_candidates(self, texts: Iterable[str], *, progress: Progress | None = None) -> Float32[np.ndarray, "texts dim"]:
        """Encode candidates into one vector each, for caching.

        Raises:
            UserError: An input is not a text.
        """
        texts = list_texts(texts, what="candidate")
        ids, self.truncated_candidates = _token_ids(self.candidate, texts)
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        with evaluating(self.module), (progress or Progress.silent()).task("encode candidates", len(texts)) as task:
            for batch in batches_by_tokens([len(text) for text in ids], batch_tokens=self._batch_tokens()):
                vectors[batch] = self.candidate_vectors([ids[text] for text in batch]).cpu().numpy()
                task.advance(len(batch))
        refuse_not_finite(vectors, self.name)
        return vectors

    @torch.inference_mode()
    def encode_contexts(self, texts: Iterable[str]) -> ContextVectors:
        """Encode contexts; each has many numbers, so pass few at a time.

        Raises:
            UserError: An input is not a text.
        """
        texts = list_texts(texts, what="context")
        ids, self.truncated_contexts = _token_ids(self.context, texts)
        vectors = torch.empty(len(texts), self.head.vectors, self.dim)
        with evaluating(self.module):
            for batch in batches_by_tokens([len(text) for text in ids], batch_tokens=self._batch_tokens()):
                vectors[batch] = self.context_vectors([ids[text] for text in batch]).cpu()
        refuse_not_finite(vectors.numpy(), self.name)
        return ContextVectors(vectors, self.head.is_vector(torch.tensor([len(text) for text in ids], dtype=torch.long)))

    def _numbers_of_a_context(self) -> int:
        return self.head.vectors * self.dim

    def _scored(self, candidates: Float32[np.ndarray, "candidates dim"], context: Tensor) -> Float32[np.ndarray, " candidates"]:
        return scan_all(candidates, context)

    def _counted(self, side: str, texts: list[str]) -> list[int]:
        return (self.context if side == "context" else self.candidate).count_tokens(texts)

    def _cached(self, pool: Sequence[str], progress: Progress | None) -> np.ndarray:
        return self.encode_candidates(pool, progress=progress)

    def timed_queries(self, candidates: Sequence[str], sizes: Sequence[int]) -> list[TimedQuery]:
        few = self.encode_candidates(list(dict.fromkeys(candidates))[: max(sizes)])

        def query(size: int) -> TimedQuery:
            vectors = np.resize(few, (size, self.dim))
            return TimedQuery(size, lambda context: scan_all(vectors, self.encode_contexts([context]).of(0)), size)

        return [query(size) for size in sizes]

    # ---- saving

    def save(self, folder: Path, *, record: dict[str, Any], card: str) -> None:
        if self._correction is not None:
            raise UserError(f"model {self.name!r} is an encoder with a correction, not a trained ranker: copy its folder instead")
        about = {
            "type": self.type,
            "kind": self.head.kind,
            "codes": self.head.count,
            "learned_scale": self.head.log_scale.requires_grad,
            "scale": float(self.head.scale.detach()),
            "normalise": self.head.normalize,
            "context_tokens": self.context.max_tokens,
            "candidate_tokens": self.candidate.max_tokens,
            "shared": self.is_shared,
        }
        record = {**record, "kind": "ranker", "ranker": about}
        part = {"kind": "encoder", "part_of": "ranker", "base_model": record.get("base_model")}
        _save_head(self.head, folder)
        if self.is_shared and self.type == "bi":
            self.context.save(folder, record=record, card=card, similarity="dot")
            return
        for name, tower in (("encoder", self.context),) if self.is_shared else (("context", self.context), ("candidate", self.candidate)):
            (folder / name).mkdir()
            tower.save(folder / name, record=part, card=card, similarity="dot")
        if self.type == "bi":
            write_router(folder, query="context", document="candidate", kept=self.context.sentence_transformers)
        write_record(folder, record)
        (folder / "README.md").write_text(card, encoding="utf-8")


class CrossRanker(PairRanker):
    """Cross-encoder trained by ``tain rank train``: scores the first token's vector of the joined pair.

    Args:
        tower: The encoder; its ``max_tokens`` limits the joined pair.
        head: Maps the first token's vector to a score.
        context_tokens: Length limit of contexts, including special tokens; their beginning is cut.
        candidate_tokens: Length limit of candidates.
        name: Name shown in tables.
        record: Content of its ``tain.json``.
    """

    def __init__(
        self,
        tower: Embedder,
        head: PairHead,
        *,
        context_tokens: int,
        candidate_tokens: int,
        name: str,
        record: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(name=name, record=record)
        self.tower = tower
        self.head = head.to(tower.encoder.device)
        self.context = _side(tower, tower.encoder, max_tokens=context_tokens, cut="left")
        self.candidate = _side(tower, tower.encoder, max_tokens=candidate_tokens, cut="right")
        self._separator = separator_id(tower.tokenizer)
        # RoBERTa-like models put two separators between the texts, BERT-like models one
        self._is_doubly_separated = tower.tokenizer.num_special_tokens_to_add(pair=True) > 3

    @classmethod
    def opened(cls, found: StoredRanker) -> "CrossRanker | None":
        """Load a folder written by ``save``."""
        if found.kind is not None or described(found.record, found.name)["type"] != "cross":
            return None
        return cls.read(Path(found.name), found.record, device=found.device, trust_remote_code=found.trust_remote_code)

    @classmethod
    def start(cls, embedder: Embedder, *, context_tokens: int, candidate_tokens: int, generator: torch.Generator) -> "CrossRanker":
        """Build an untrained ranker around an encoder."""
        head = PairHead(embedder.encoder.dim, generator=generator)
        return cls(embedder, head, context_tokens=context_tokens, candidate_tokens=candidate_tokens, name=embedder.name)

    @classmethod
    def read(cls, folder: Path, record: dict[str, Any], *, device: str | None, trust_remote_code: bool) -> "CrossRanker":
        """Load a ranker written by ``save``, in float32."""
        about = record["ranker"]
        layout = record.get("layout", "auto")
        _refuse_missing(folder / "encoder")
        tower = Embedder.load(folder / "encoder", device=device, dtype="float32", layout=layout, trust_remote_code=trust_remote_code)
        head = PairHead(tower.encoder.dim)
        _load_head(head, folder)
        limits = {name: about[name] for name in ("context_tokens", "candidate_tokens")}
        return cls(tower, head, name=str(folder), record=record, **limits)

    @property
    def module(self) -> nn.Module:
        return nn.ModuleDict({"encoder": self.tower.encoder, "head": self.head})

    @property
    def towers(self) -> tuple[Embedder, ...]:
        return (self.tower,)

    def _fingerprinted(self) -> str:
        about = (tokenizer_fingerprint(self.tower.tokenizer), self.context.max_tokens, self.candidate.max_tokens)
        return digest({**self.tower.encoder.state_dict(), **self.head.state_dict()}, about)

    def pair_ids(self, context: Sequence[int], candidate: Sequence[int]) -> tuple[list[int], int]:
        """Join a tokenized context and candidate; also return the index of the candidate's first token."""
        second = [self._separator, *candidate[1:]] if self._is_doubly_separated else list(candidate[1:])
        return [*context, *second], len(context)

    def count_tokens(self, contexts: Iterable[str], lists: Iterable[Iterable[str]]) -> list[int]:
        contexts, lists = matched_lists(contexts, lists)
        counts = iter(self.candidate.count_tokens([text for listed in lists for text in listed]))
        joined = 0 if self._is_doubly_separated else -1  # the candidate's opening token is replaced by a separator, or dropped
        of_contexts = self.context.count_tokens(contexts)
        return [
            sum(of_context + count + joined for count in islice(counts, len(listed)))
            for of_context, listed in zip(of_contexts, lists, strict=True)
        ]

    def pair_scores(self, pairs: Sequence[tuple[list[int], int]], *, share_rows: bool = False) -> Float[Tensor, " pairs"]:
        """Score joined pairs, with gradients if torch records them."""
        encoder = self.tower.encoder
        packed = pack([ids for ids, _ in pairs], share_rows=share_rows and encoder.layout == "packed").to(encoder.device)
        hidden = encoder.tokens(packed, second_parts=torch.tensor([begins for _, begins in pairs]))
        return self.head(hidden[packed.starts])[packed.order.argsort()]

    @torch.inference_mode()
    def score_lists(
        self, contexts: Iterable[str], lists: Iterable[Iterable[str]], *, progress: Progress | None = None
    ) -> list[Float32[np.ndarray, " listed"]]:
        contexts, lists = matched_lists(contexts, lists)
        row_of = {text: row for row, text in enumerate(dict.fromkeys(text for listed in lists for text in listed))}
        context_ids, self.truncated_contexts = _token_ids(self.context, contexts)
        candidate_ids, self.truncated_candidates = _token_ids(self.candidate, list(row_of))
        pairs = [(context, row_of[text]) for context, listed in enumerate(lists) for text in listed]
        lengths = [len(context_ids[context]) + len(candidate_ids[row]) for context, row in pairs]
        scores = np.empty(len(pairs), dtype=np.float32)
        with evaluating(self.module), (progress or Progress.silent()).task("score pairs", len(pairs)) as task:
            for batch in batches_by_tokens(lengths, batch_tokens=self._batch_tokens()):
                joined = [self.pair_ids(context_ids[pairs[pair][0]], candidate_ids[pairs[pair][1]]) for pair in batch]
                scores[batch] = self.pair_scores(joined).cpu().numpy()
                task.advance(len(batch))
        refuse_not_finite(scores, self.name)
        ends = np.cumsum([len(listed) for listed in lists])
        return np.split(scores, ends[:-1]) if lists else []

    def save(self, folder: Path, *, record: dict[str, Any], card: str) -> None:
        about = {"type": "cross", "context_tokens": self.context.max_tokens, "candidate_tokens": self.candidate.max_tokens}
        (folder / "encoder").mkdir()
        part = {"kind": "encoder", "part_of": "ranker", "base_model": record.get("base_model")}
        self.tower.save(folder / "encoder", record=part, card=card)
        _save_head(self.head, folder)
        write_record(folder, {**record, "kind": "ranker", "ranker": about})
        (folder / "README.md").write_text(card, encoding="utf-8")


def refuse_correction(embedder: Embedder) -> None:
    """Refuse to train an encoder with a correction, which was fitted to the vectors of the untrained encoder.

    Raises:
        UserError: It has one.
    """
    if embedder.correction is not None:
        raise UserError(
            f"model {embedder.name!r} has a correction (such as a whitening), which no longer fits once training changes its vectors: train an"
            " encoder without one; rank score, search and evaluate accept this one"
        )


def _as_layer(correction: LinearCorrection | LayerStack) -> nn.Module:
    """Convert the correction to a frozen float32 layer."""
    if isinstance(correction, LayerStack):
        return copy.deepcopy(correction.network)
    outs, ins = correction.weight.shape
    layer = nn.Linear(ins, outs).requires_grad_(False)
    layer.load_state_dict({"weight": torch.from_numpy(correction.weight), "bias": torch.from_numpy(correction.bias)})
    return layer


def _refuse_missing(tower: Path) -> None:
    if not tower.is_dir():  # otherwise the hub would be queried
        raise UserError(f"ranker {str(tower.parent)!r} lacks its folder {tower.name!r}: train it again, or copy the folder again")


def _side(embedder: Embedder, encoder: Any, *, max_tokens: int, cut: str, normalize: bool = False) -> Embedder:
    """Copy of an embedder with its own length limit and truncation side."""
    tokenizer = copy.deepcopy(embedder.tokenizer)
    tokenizer.truncation_side = cut
    kept = {"sentence_transformers": embedder.sentence_transformers, "include_prompt": embedder.include_prompt}
    return Embedder(encoder, tokenizer, name=embedder.name, max_tokens=max_tokens, normalize=normalize, **kept)


def _token_ids(side: Embedder, texts: list[str]) -> tuple[list[list[int]], int]:
    tokens = tokenise(side.tokenizer, texts, max_tokens=side.max_tokens)
    return tokens.ids, tokens.truncated


def _save_head(head: nn.Module, folder: Path) -> None:
    save_file({name: tensor.detach().float().cpu().contiguous() for name, tensor in head.state_dict().items()}, folder / _HEAD_FILE)


def _load_head(head: nn.Module, folder: Path) -> None:
    try:
        head.load_state_dict(read_tensors(folder / _HEAD_FILE))
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"ranker {str(folder)!r} has no matching head ({reason}): train it again") from None
    if not all(torch.isfinite(tensor).all() for tensor in head.state_dict().values()):
        raise UserError(f"ranker {str(folder)!r} has a head with numbers that are not finite: train it again")


Ranker.kinds = (SavedCrossEncoder, CrossRanker, DualRanker)

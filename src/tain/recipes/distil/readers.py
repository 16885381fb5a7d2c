"""Training inputs and initial weights of each kind of student."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from tain.batches.packing import batches_by_tokens, pack
from tain.batches.same_texts import id_keys
from tain.batches.tokenizing import bare_ids, tokenise
from tain.foundation.errors import UserError
from tain.models.correction import LinearCorrection
from tain.models.embedder import Embedder
from tain.models.layers import LayerStack
from tain.recipes.distil.config import DistilConfig, PqrnnConfig, ResolvedDistilConfig
from tain.recipes.distil.data import DistillationData
from tain.recipes.distil.start import begin_with
from tain.recipes.distil.teacher import Teacher
from tain.recipes.distil.words import fit_skip, fit_words
from tain.students.projection import UNIT, Projection
from tain.students.projection_config import ProjectionConfig
from tain.students.student import PROJECTION_FILE, TOKENIZER_FILE, is_student
from tain.students.torch.qrnn import PQRNN, StudentShape
from tain.students.torch.static import StaticStudent, frequency_weights

_MOST_TOKENS = 4096  # tokens per text in static training; a batch is as wide as its longest text


@runtime_checkable
class Reader(Protocol):
    """Turns texts into a student's inputs."""

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the projection; None without one."""
        ...

    def module(self, data: DistillationData) -> PQRNN | StaticStudent:
        """Build the untrained student."""
        ...

    def truncated(self, texts: Sequence[str]) -> int:
        """Count the texts that exceed the student's length limit."""
        ...

    def mean_tokens(self, texts: Sequence[str]) -> float:
        """Approximate mean number of tokens per text, without special tokens."""
        ...

    def input_keys(self, texts: Sequence[str]) -> Sequence[str] | Sequence[bytes]:
        """A key per text; equal keys mean equal inputs to the student."""
        ...

    def outputs(self, module: nn.Module, texts: Sequence[str], rng: np.random.Generator) -> tuple[Tensor | None, Tensor | None]:
        """Run the student in training mode: outputs of texts (texts, outputs) and of tokens (texts, tokens, tags)."""
        ...

    def save(self, folder: Path) -> None:
        """Write the file that the saved student prepares its inputs with."""
        ...


def reader_for(teacher: Teacher, encoder: Embedder | None, config: ResolvedDistilConfig, device: torch.device) -> Reader:
    """Build the reader for the chosen kind of student.

    Raises:
        UserError: A static student has no encoder to start from.
    """
    if isinstance(config, PqrnnConfig):
        return HashedReader(encoder, config, device)
    return StaticReader(teacher, encoder, config, device)


class HashedReader:
    """Read texts as hashed token features, for a pQRNN."""

    def __init__(self, encoder: Embedder | None, config: PqrnnConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.embedder = encoder if _starts_from_words(config) else None
        self.projection = Projection(
            ProjectionConfig(
                features=config.features,
                ngram_features=config.ngram_features,
                separate=config.separate,
                split=config.split,
                max_tokens=config.max_tokens,
            )
        )

    @property
    def fingerprint(self) -> str | None:
        return self.projection.config.fingerprint

    def module(self, data: DistillationData) -> PQRNN:
        config = self.config
        shape = StudentShape(
            features=config.features,
            bottleneck=config.bottleneck,
            state=config.state,
            layers=config.layers,
            kernel_width=config.kernel_width,
            bidirectional=not config.forward_only,
            text_outputs=data.text_outputs,
            token_outputs=len(data.tags),
            skip=config.mean_skip and data.text_outputs > 0,
        )
        module = PQRNN(shape, zoneout=config.zoneout, dtype=getattr(torch, config.dtype))
        taught = data.train.taught.text
        if config.task == "embed" and module.text_head is not None and module.skip_head is None and taught is not None:
            with torch.no_grad():  # start from the common part of all vectors
                module.text_head.bias.copy_(torch.from_numpy(taught.mean(axis=0)))
        texts = [example.text for example in data.train.examples]
        if self.embedder is not None:
            fit_words(module, self.projection, texts, self.embedder.encode, words=config.init_words)
        taken = begin_with(module, config.init_from, with_heads=config.task == "embed") if config.init_from is not None else set()
        if module.skip_head is not None and not config.resume and "skip_head.weight" not in taken:
            known, wanted = _wanted(data)
            fit_skip(module, self.projection, [texts[index] for index in known], wanted, keeps_layers=config.init_from is not None)
        return module

    def truncated(self, texts: Sequence[str]) -> int:
        long = [text for text in texts if len(text) > self.projection.config.max_tokens]  # shorter strings cannot have that many tokens
        return sum(self.projection(long[start : start + 1024]).truncated for start in range(0, len(long), 1024))

    def mean_tokens(self, texts: Sequence[str]) -> float:
        ends = self.projection.config.begin + self.projection.config.end
        return float(np.mean([self.projection.count(text) for text in texts[:1000]])) - ends

    def input_keys(self, texts: Sequence[str]) -> list[str]:
        return ["\0".join(self.projection.tokens(text)[: self.projection.config.max_tokens]) for text in texts]

    def outputs(self, module: nn.Module, texts: Sequence[str], rng: np.random.Generator) -> tuple[Tensor | None, Tensor | None]:
        projected = self.projection(texts, distortion=self.config.distortion, rng=rng)
        rows = torch.from_numpy(projected.rows).to(self.device).float() / UNIT
        return module(rows, torch.from_numpy(projected.ids).to(self.device))

    def save(self, folder: Path) -> None:
        self.projection.config.save(folder / PROJECTION_FILE)


def _wanted(data: DistillationData) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the texts with a target for the whole text, and the targets: the teacher's outputs, or else labels.

    Logits and labels are centred per text and per class, because a linear layer need not learn these offsets.
    """
    train = data.train
    if train.taught.text is not None:
        known = np.flatnonzero(np.isfinite(train.taught.text[:, 0]))
        wanted = train.taught.text[known]
        return known, wanted - wanted.mean(axis=1, keepdims=True) if data.labels else wanted
    known = np.flatnonzero(train.labels >= 0)
    given = np.eye(data.text_outputs, dtype=np.float32)[train.labels[known]]
    return known, given - given.sum(axis=0) / max(1, len(known))


def encoder_of(teacher: Teacher, config: DistilConfig, device: torch.device) -> Embedder | None:
    """Load the encoder for initial token or word vectors and for similar words; None if there is none or none is needed."""
    is_start = config.student == "static" or _starts_from_words(config)
    if not is_start and (config.task == "embed" or not config.word_replacement or config.augmented_copies == 0):
        return None
    if config.token_vectors is None:
        return teacher.embedder
    if is_student(config.token_vectors):
        raise UserError(f"token_vectors is {config.token_vectors!r}, a student, which has no word tokens: give an encoder")
    return Embedder.load(config.token_vectors, device=str(device), dtype="float32", trust_remote_code=config.trust_remote_code)


def _starts_from_words(config: DistilConfig) -> bool:
    """Whether a pQRNN's bottleneck is fitted to word vectors, not loaded from another student or a checkpoint."""
    return config.init_words > 0 and config.init_from is None and not config.resume


class StaticReader:
    """Read texts as token ids of an encoder's tokenizer, for a static student."""

    def __init__(self, teacher: Teacher, embedder: Embedder | None, config: DistilConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        if embedder is None:
            raise UserError(
                f"a static student starts from an encoder's token vectors, which teacher {teacher.name!r} does not have: name an encoder with --token-vectors"
            )
        self.embedder = embedder
        if getattr(embedder.tokenizer, "backend_tokenizer", None) is None:
            raise UserError(
                f"the tokenizer of {embedder.name!r} has no form that runs without transformers: name another encoder with --token-vectors"
            )

    @property
    def fingerprint(self) -> str | None:
        return None

    def module(self, data: DistillationData) -> StaticStudent:
        vocabulary = len(self.embedder.tokenizer)
        counts = np.zeros(vocabulary)
        texts, held = ([example.text for example in part.examples] for part in (data.train, data.held))
        for index, (text, ids) in enumerate(zip([*texts, *held], bare_ids(self.embedder.tokenizer, [*texts, *held]), strict=True)):
            if not ids:
                raise UserError(f"the text {text[:40]!r} has no tokens for the tokenizer of {self.embedder.name!r}: leave such texts out")
            if index < len(texts):
                np.add.at(counts, ids, 1)
        vectors = self._token_vectors(vocabulary)
        # the head maps back to the space of the token vectors, which is right only if the student predicts vectors of that width
        is_space_of_vectors = self.config.task == "embed" and data.text_outputs == vectors.shape[1]
        dim, directions = self.config.static_dim, min(vectors.shape)
        if is_space_of_vectors and dim > directions:  # further dimensions would stay 0
            if dim != DistilConfig.static_dim:
                raise UserError(f"static_dim is {dim}, but the token vectors have {directions} directions: give as many or fewer")
            dim = directions
        module = StaticStudent(tokens=vocabulary + 1, dim=dim, outputs=data.text_outputs)
        if self.config.epochs == 0 and not is_space_of_vectors:
            raise UserError(
                f"epochs is 0, but the teacher's vectors have {data.text_outputs} dimensions and the token vectors {vectors.shape[1]},"
                " so the layer between them must be trained: give 1 or more"
            )
        module.start_from(vectors, frequency_weights(torch.from_numpy(counts).float()), with_head=is_space_of_vectors)
        return module

    @torch.inference_mode()
    def _token_vectors(self, vocabulary: int) -> Tensor:
        """The encoder's vector of each single token, encoded with special tokens."""
        embedder = self.embedder
        (bare,), (whole,) = bare_ids(embedder.tokenizer, ["a"]), tokenise(embedder.tokenizer, ["a"], max_tokens=embedder.max_tokens).ids
        begin = next(index for index in range(len(whole)) if whole[index : index + len(bare)] == bare)
        alone = [[*whole[:begin], token, *whole[begin + len(bare) :]] for token in range(vocabulary)]
        vectors = torch.empty(vocabulary, embedder.encoder.dim)
        for batch in batches_by_tokens([len(ids) for ids in alone], batch_tokens=4096):
            vectors[np.asarray(batch)] = embedder.encoder(pack([alone[token] for token in batch])).float().cpu()
        if isinstance(embedder.correction, LinearCorrection | LayerStack):
            vectors = torch.from_numpy(embedder.correction.apply(vectors.numpy()))
        return vectors.clone()

    def truncated(self, texts: Sequence[str]) -> int:
        return 0  # a mean takes any number of tokens; only training uses the first few thousand of a text

    def mean_tokens(self, texts: Sequence[str]) -> float:
        return float(np.mean([len(ids) for ids in bare_ids(self.embedder.tokenizer, texts[:1000])]))

    def input_keys(self, texts: Sequence[str]) -> list[bytes]:
        return id_keys(map(sorted, bare_ids(self.embedder.tokenizer, texts)))  # a mean does not depend on the order

    def outputs(self, module: nn.Module, texts: Sequence[str], rng: np.random.Generator) -> tuple[Tensor | None, Tensor | None]:
        found = [mine[:_MOST_TOKENS] for mine in bare_ids(self.embedder.tokenizer, texts)]
        ids = torch.zeros(len(texts), max(1, *map(len, found)), dtype=torch.long)
        for row, mine in enumerate(found):
            ids[row, : len(mine)] = torch.tensor(mine, dtype=torch.long) + 1
        return module(ids.to(self.device)), None

    def save(self, folder: Path) -> None:
        backend = self.embedder.tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.save(str(folder / TOKENIZER_FILE))

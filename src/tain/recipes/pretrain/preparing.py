"""Prepare a pretraining run: the model, its tokenizer, and the tokenised texts."""

import hashlib
import json
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tain.batches.order import step_seed
from tain.batches.shards import Shards, Sources, tokenised
from tain.batches.tokenizing import fingerprint
from tain.encoders.cooccurrence import cooccurrence_vectors
from tain.encoders.masked_lm import grow_embeddings, start_embeddings
from tain.foundation.errors import UserError
from tain.foundation.files import whole_file, whole_folder
from tain.foundation.progress import Progress
from tain.models.embedder import max_length
from tain.models.loading import load_tokenizer
from tain.models.masked_lm import load_masked_lm, refuse_without_mask
from tain.recipes.pretrain.conditional import pseudo_tokens_of
from tain.recipes.pretrain.config import PretrainConfig
from tain.recipes.pretrain.spelling import choose_spelling
from tain.recipes.pretrain.start import alphabet_of, new_model, train_wordpiece
from tain.recipes.pretrain.vocabulary import add_words, count_words, words_cut_up
from tain.text.readers import read_texts
from tain.training import distributed

SCRATCH = "scratch"

_MUCH_UNKNOWN, _MOST_UNKNOWN = 0.02, 0.5  # shares of tokens: from here a warning, from here an error
_LOOKED_AT = 2**24  # tokens at a time


@dataclass(frozen=True)
class Prepared:
    """What a run starts from.

    Attributes:
        model: The masked language model, float32.
        tokenizer: Its tokenizer.
        shards: The tokenised texts.
        facts: Facts about the initialisation, for the saved record.
    """

    model: Any
    tokenizer: Any
    shards: Shards
    facts: dict[str, Any]


class Preparation:
    """Builds or loads the model and tokenises the texts. Results that take long are stored for the next run.

    Args:
        model: ``scratch``, or the name of a saved model.
        sources: The texts.
        config: All settings.
        work: Folder for stored results.
        progress: Receives notes and warnings.
    """

    def __init__(self, model: str, sources: Sources, config: PretrainConfig, work: Path, progress: Progress) -> None:
        self.model_name, self.sources, self.config, self.work, self.progress = model, sources, config, work, progress
        self.facts: dict[str, Any] = {}

    def run(self) -> Prepared:
        """Prepare a new or a continued model.

        Raises:
            UserError: Settings, texts or model are invalid.
        """
        return self.new() if self.model_name == SCRATCH else self.continued()

    def new(self) -> Prepared:
        """A new model with random weights, and a tokenizer that is trained on the texts."""
        self.tokenizer = self._new_tokenizer()
        refuse_without_mask(self.tokenizer, self.config.tokenizer or self.model_name)
        model = new_model(self.config, self.tokenizer)
        self._refuse_long_blocks(model)
        shards = self._shards()
        # the other processes get the weights of the first
        if self.config.cooccurrence_init and not self.config.resume and distributed.rank() == 0:
            self._start_embeddings(model, shards)
        return Prepared(model, self.tokenizer, shards, self.facts)

    def continued(self) -> Prepared:
        """A saved model, with new words if the settings name some."""
        loaded = load_masked_lm(self.model_name, trust_remote_code=self.config.trust_remote_code)
        self.tokenizer = loaded.tokenizer
        self._refuse_long_blocks(loaded.model)
        self.facts["new_head"] = loaded.new_head
        if loaded.new_head:
            self.progress.note(f"{self.model_name!r} has no prediction head ({len(loaded.new_head)} parameters): it gets a random new one")
        words = self._words()
        if words:
            new = add_words(self.tokenizer, words)
            grow_embeddings(loaded.model, new)
            self.facts["added_words"] = len(new)
            self.progress.note(f"the tokenizer learned {len(new):,} words" + self._examples(new))
        return Prepared(loaded.model, self.tokenizer, self._shards(), self.facts)

    def _refuse_long_blocks(self, model: Any) -> None:
        """Refuse blocks that are longer than the model's limit, before the texts are tokenised into shards."""
        positions = max_length(model, self.tokenizer)
        pseudo_tokens = pseudo_tokens_of(self.config)
        if self.config.block_tokens + pseudo_tokens > positions:
            beside = f" including {pseudo_tokens} pseudo-tokens" if pseudo_tokens else ""
            raise UserError(
                f"block_tokens is {self.config.block_tokens}, but model {self.model_name!r} reads {positions} tokens{beside} at most: "
                f"give {positions - pseudo_tokens} or fewer"
            )

    def _new_tokenizer(self) -> Any:
        if self.config.tokenizer is not None:
            return load_tokenizer(self.config.tokenizer, trust_remote_code=self.config.trust_remote_code)
        key = hashlib.sha256(json.dumps([self.sources.facts(), self.config.vocab_size, self.config.lowercase]).encode()).hexdigest()[:16]
        folder = self.work / f"tokenizer-{key}"
        if not (folder / "tokenizer.json").exists():
            spelling = choose_spelling(self.sources.texts(), lowercase=self.config.lowercase)
            self.progress.note(f"training a tokenizer of {self.config.vocab_size:,} word pieces: {spelling}")
            # each character may need two pieces: one that starts a word and one that continues it
            alphabet = alphabet_of(self.sources.texts(), most=self.config.vocab_size // 3, spelling=spelling)
            trained = train_wordpiece(self.sources.texts(), vocabulary=self.config.vocab_size, alphabet=alphabet, spelling=spelling)
            with whole_folder(folder, overwrite=True, follow=False) as partial:
                trained.save_pretrained(partial)
        return load_tokenizer(folder)

    def _words(self) -> list[str]:
        """The words to add to the tokenizer; counted words are stored, so that a resumed run does not count again."""
        given = list(read_texts(self.config.words)) if self.config.words is not None else []
        if not self.config.add_words:
            return given
        kept = self.work / f"words-{self._key(self.config.add_words)}.txt"
        if not kept.exists():
            found = words_cut_up(count_words(self.sources.texts(), self.tokenizer), self.tokenizer, words=self.config.add_words)
            with whole_file(kept) as partial:
                partial.write_text("\n".join(found), encoding="utf-8")
        found = kept.read_text(encoding="utf-8").split()
        if len(found) < self.config.add_words:
            self.progress.note(f"only {len(found):,} words of the texts are frequent and split into 3 or more pieces")
        return given + found

    def _examples(self, new: Collection[int]) -> str:
        shown = self.tokenizer.convert_ids_to_tokens(list(new)[:3])
        return f": {', '.join(shown)}, ..." if shown else ""

    def _shards(self) -> Shards:
        """The tokenised texts; stored, so that a resumed run or another objective does not tokenise again."""
        folder = self.config.shards or self.work / f"shards-{self._key()}"
        shards = tokenised(folder, self.sources, self.tokenizer, progress=self.progress)
        needed = (self.config.batch_blocks + 1) * self.config.block_tokens
        if len(shards.tokens) < needed:
            raise UserError(
                f"the texts have {len(shards.tokens):,} tokens, fewer than one step takes ({needed:,}): give more text, or --batch-blocks 1"
            )
        self._tell_unknown(shards)
        return shards

    def _tell_unknown(self, shards: Shards) -> None:
        """Warn about unknown tokens in the texts, and refuse texts that are mostly unknown."""
        unknown = self.tokenizer.unk_token_id
        if unknown is None or unknown == shards.separator:
            return
        pieces = (shards.tokens[first : first + _LOOKED_AT] for first in range(0, len(shards.tokens), _LOOKED_AT))
        share = sum(int(np.count_nonzero(piece == unknown)) for piece in pieces) / len(shards.tokens)
        if share > _MOST_UNKNOWN:
            raise UserError(
                f"{share:.0%} of the texts' tokens are unknown to the tokenizer, and cannot be learned: "
                "give a model for the language of the texts, or for a new model a larger --vocab-size"
            )
        if share > _MUCH_UNKNOWN:
            self.progress.warn(f"{share:.1%} of the texts' tokens are unknown to the tokenizer, and are not masked or learned")

    def _key(self, *more: Any) -> str:
        """Hash of texts and tokenizer, to recognise stored results of other ones."""
        return hashlib.sha256(json.dumps([self.sources.facts(), fingerprint(self.tokenizer), *more]).encode()).hexdigest()[:16]

    def _start_embeddings(self, model: Any, shards: Shards) -> None:
        began_s = time.monotonic()
        generator = torch.Generator().manual_seed(step_seed(self.config.seed, 0, 5))
        table, unigram = cooccurrence_vectors(
            shards.tokens,
            vocabulary=len(self.tokenizer),
            dim=model.get_input_embeddings().weight.shape[1],
            special_ids=self.tokenizer.all_special_ids,
            generator=generator,
        )
        start_embeddings(model, table, unigram)
        self.progress.note(f"embeddings initialised from co-occurrence counts ({time.monotonic() - began_s:.0f} s)")

"""Create a new model with random weights and train its tokenizer on the texts."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tain.recipes.pretrain.config import PretrainConfig
from tain.recipes.pretrain.spelling import Spelling, normaliser

_ALPHABET = 256  # characters, unless more are needed
_LONGEST_WORD = 1000  # characters; a longer one is unknown. Thai writes whole clauses without blanks
_UNCASED = Spelling()  # as in uncased BERT
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def new_model(config: PretrainConfig, tokenizer: Any) -> Any:
    """Build a masked language model with random weights, the config's dropout, and tied input and output embeddings."""
    import transformers

    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": 512,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }
    if config.architecture == "bert":
        settings = transformers.BertConfig(**shared, hidden_dropout_prob=config.dropout, attention_probs_dropout_prob=config.dropout)
    else:
        shared["global_attn_every_n_layers"] = 1  # every layer sees the whole text: blocks are short
        settings = transformers.ModernBertConfig(
            **shared,
            embedding_dropout=config.dropout,
            mlp_dropout=config.dropout,
            attention_dropout=config.dropout,
            cls_token_id=tokenizer.cls_token_id,
            sep_token_id=tokenizer.sep_token_id,
            bos_token_id=tokenizer.cls_token_id,
            eos_token_id=tokenizer.sep_token_id,
        )
    return transformers.AutoModelForMaskedLM.from_config(settings)


def alphabet_of(texts: Iterable[str], *, most: int, spelling: Spelling = _UNCASED) -> list[str]:
    """Choose a tokenizer's alphabet: the 256 most frequent characters, or more until at most one in a thousand is unknown.

    A few hundred are enough for most scripts; Chinese needs thousands. A word with a character outside the alphabet becomes ``[UNK]``.

    Args:
        texts: The texts.
        most: Maximum number of characters, if more than 256 are needed.
        spelling: The tokenizer's treatment of case and accents.

    Returns:
        The characters as the tokenizer sees them, in code-point order.
    """
    normal, counts = normaliser(spelling), Counter[str]()
    for text in texts:
        counts.update(normal.normalize_str(text))
    ordered = sorted((character for character in counts if not character.isspace()), key=lambda character: (-counts[character], character))
    covered = np.cumsum([counts[character] for character in ordered])
    needed = int(np.searchsorted(covered, 0.999 * covered[-1])) + 1 if len(covered) else 0
    return sorted(ordered[: min(max(_ALPHABET, needed), max(_ALPHABET, most))])


def train_wordpiece(texts: Iterator[str], *, vocabulary: int, alphabet: Sequence[str], spelling: Spelling = _UNCASED) -> Any:
    """Train a WordPiece tokenizer for transformers; the same texts give the same tokenizer.

    The trainer numbers continuation pieces in the order of its hash table, which changes between runs, and breaks ties between merges by
    these numbers. Assigning the numbers beforehand makes it deterministic.

    Args:
        texts: The texts.
        vocabulary: Number of pieces.
        alphabet: Characters that pieces consist of, in order.
        spelling: Treatment of case and accents.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    normal, splitter = normaliser(spelling), pre_tokenizers.BertPreTokenizer()
    longest = {} if spelling.strip_accents else {"max_input_chars_per_word": _LONGEST_WORD}
    scratch = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    scratch.normalizer, scratch.pre_tokenizer = normal, splitter
    # punctuation and Chinese characters are words by themselves, so they have no continuation pieces
    going_on = [f"##{character}" for character in alphabet if splitter.pre_tokenize_str(normal.normalize_str(f"a{character}"))[1:] == []]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        limit_alphabet=len(alphabet),
        initial_alphabet=list(alphabet),
        special_tokens=[*SPECIAL_TOKENS, *going_on],
        show_progress=False,
    )
    scratch.train_from_iterator(texts, trainer)
    tokenizer = Tokenizer(models.WordPiece(scratch.get_vocab(), unk_token="[UNK]", **longest))  # in this one, pieces are not special tokens
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normal, splitter, decoders.WordPiece()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    first, last = SPECIAL_TOKENS.index("[CLS]"), SPECIAL_TOKENS.index("[SEP]")  # the trainer numbers them in this order
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", last), ("[CLS]", first))
    return wrapped_tokenizer(tokenizer)


def wrapped_tokenizer(tokenizer: Any) -> Any:
    """Wrap a ``tokenizers`` tokenizer with BERT's special tokens for transformers."""
    import transformers

    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names)

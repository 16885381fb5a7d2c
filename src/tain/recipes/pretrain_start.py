"""What pretraining from scratch starts from: a model with random weights, and a tokenizer trained on the texts."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from tain.recipes.pretrain_config import PretrainConfig

_ALPHABET = 256  # characters, at least
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def new_model(config: PretrainConfig, tokenizer: Any) -> Any:
    """Build a masked language model with random weights, dropout as the config says, input and output embeddings tied."""
    import transformers

    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.feed_forward,
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


def alphabet_size(texts: Iterator[str], *, most: int) -> int:
    """How many characters a tokenizer of these texts shall know: 256, or as many as leave one in a thousand unknown, ``most`` at most.

    A few hundred do for most alphabets. Chinese needs thousands, and what is not in the alphabet is ``[UNK]``, a whole word at a time.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text.lower())
    covered = np.cumsum([count for character, count in counts.most_common() if not character.isspace()])
    needed = int(np.searchsorted(covered, 0.999 * covered[-1])) + 1 if len(covered) else 0
    return min(max(_ALPHABET, needed), max(_ALPHABET, most))


def train_wordpiece(texts: Iterator[str], *, vocabulary: int, alphabet: int = _ALPHABET) -> Any:
    """Train an uncased WordPiece tokenizer, whose pieces are made of the ``alphabet`` most frequent characters, as transformers wraps it."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary, min_frequency=2, limit_alphabet=alphabet, special_tokens=list(SPECIAL_TOKENS), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    first, last = SPECIAL_TOKENS.index("[CLS]"), SPECIAL_TOKENS.index("[SEP]")  # the trainer numbers them in this order
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", last), ("[CLS]", first))
    return wrapped_tokenizer(tokenizer)


def wrapped_tokenizer(tokenizer: Any) -> Any:
    """Give a ``tokenizers`` tokenizer with BERT's special tokens the form that transformers saves and loads."""
    import transformers

    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names)

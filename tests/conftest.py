"""Tiny models made in memory, so that the suite needs no network, and the check of every shape that tain's signatures promise."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything reads it: a test that reaches for a hub must fail, not wait
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import string
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from tiny_models import randomise, tiny_config

# before tain is imported: tests import it only after this file has run
jaxtyping.install_import_hook("tain", "beartype.beartype")
torch.set_num_threads(1)  # a second thread costs tiny models more than it gives, and tests may run side by side
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

SENTENCES = [
    "a thin layer of metal behind the glass makes a mirror",
    "the quick brown fox jumps over the lazy dog",
    "rivers carry sand and stones down to the sea",
    "she reads old books about stars and planets",
    "a child draws a red house under a yellow sun",
    "mirrors turn left into right, but never up into down",
    "every morning the baker sells warm bread in the market",
    "two trains leave the station at the same hour",
    "glass is made of sand, and mirrors are made of glass",
    "the sea is deep and the stars are far away",
    "small models learn slowly, large models learn quickly",
    "he wrote a long letter and never sent it",
]


@pytest.fixture(scope="session")
def tiny_encoder() -> Callable[..., Any]:
    """Make a random encoder: two layers (ModernBERT three), width 32; keyword arguments change its config."""

    def build(architecture: str, *, seed: int = 5, **changes: Any) -> Any:
        return randomise(transformers.AutoModel.from_config(tiny_config(architecture, **changes)), seed).eval()

    return build


@pytest.fixture(scope="session")
def tiny_masked_lm() -> Callable[..., Any]:
    """Make a random masked language model of the same shapes."""

    def build(architecture: str, *, seed: int = 5, **changes: Any) -> Any:
        return randomise(transformers.AutoModelForMaskedLM.from_config(tiny_config(architecture, **changes)), seed).eval()

    return build


@pytest.fixture(scope="session")
def token_ids() -> Callable[..., list[list[int]]]:
    """Draw texts as random token ids that hold no special token."""

    def draw(*lengths: int, seed: int = 1, vocabulary: int = 120) -> list[list[int]]:
        rng = np.random.default_rng(seed)
        return [rng.integers(5, vocabulary, size=length).tolist() for length in lengths]

    return draw


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    return list(SENTENCES)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Callable[..., transformers.PreTrainedTokenizerFast]:
    """Make an uncased WordPiece tokenizer of 120 tokens: letters and the commonest words; RoBERTa's kin want ``pad_id=1``.

    The vocabulary is counted here and not by a trainer, whose ids differ from run to run.
    """
    letters = [*string.ascii_lowercase, ",", ".", "!"]
    counts = Counter(word for sentence in SENTENCES for word in sentence.replace(",", "").split() if len(word) > 1)
    words = sorted(counts, key=lambda word: (-counts[word], word))

    def build(*, pad_id: int = 0, model_max_length: int = 40) -> transformers.PreTrainedTokenizerFast:
        special = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        special.insert(pad_id, "[PAD]")
        vocabulary = [*special, *letters, *(f"##{letter}" for letter in letters[:26]), *words][:120]
        ids = {token: index for index, token in enumerate(vocabulary)}
        tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B [SEP]",
            special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
        )
        names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, model_max_length=model_max_length, model_input_names=["input_ids", "attention_mask"], **names
        )

    return build


@pytest.fixture(scope="session")
def save_masked_lm(
    tmp_path_factory: pytest.TempPathFactory, tiny_masked_lm: Callable[..., Any], tiny_tokenizer: Callable[..., Any]
) -> Callable[..., Path]:
    """Save a random masked language model with its tokenizer, as transformers does, and give its folder."""

    def save(architecture: str, **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp(architecture)
        tiny_masked_lm(architecture, **changes).save_pretrained(folder)
        tiny_tokenizer(pad_id=tiny_config(architecture).pad_token_id).save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def bert_folder(save_masked_lm: Callable[..., Path]) -> Path:
    """A saved two-layer BERT masked language model. Shared by all tests: read only."""
    return save_masked_lm("bert")


@pytest.fixture(scope="session")
def modernbert_folder(save_masked_lm: Callable[..., Path]) -> Path:
    """A saved three-layer ModernBERT masked language model. Shared by all tests: read only."""
    return save_masked_lm("modernbert")


@pytest.fixture(scope="session")
def save_labeller(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Callable[..., Any]) -> Callable[..., Path]:
    """Save a random one-layer BERT with a head for whole texts or for tokens, whose outputs have names, and give its folder."""

    def save(kind: str, names: list[str], **more: Any) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        outputs = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
        narrow = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        torch.manual_seed(0)
        model = getattr(transformers, f"BertFor{kind}")(tiny_config("bert", **narrow, **outputs, **more))
        model.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Let a wrong argument reach tain's own refusal: outside the test run nothing checks types before it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def _same_chance_every_run() -> None:
    torch.manual_seed(13)  # dropout draws from torch's global state, on purpose


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(13)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(13)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The evaluation data beside the repository; the environment variable TAIN_DATA names another place."""
    folder = Path(os.environ.get("TAIN_DATA") or Path(__file__).parents[1].parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"the evaluation data is not at {folder}: set TAIN_DATA to its folder")
    return folder

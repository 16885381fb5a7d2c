"""Settings of sentence-transformers' ``Transformer`` module, ``sentence_bert_config.json``: what tain applies, and what it refuses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tain.foundation.errors import UserError
from tain.foundation.json_files import Field, checked_object

# in the order in which sentence-transformers looks for them; the names after the first are those of its early versions
SETTINGS_FILES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
# by task: the output of the model that sentence-transformers takes for it, and the name under which it hands it on
_TASKS = {"feature-extraction": ("last_hidden_state", "token_embeddings"), "sequence-classification": ("logits", "scores")}
Task = Literal["feature-extraction", "sequence-classification"]
_LENGTH = Field(kind=int, least=1, is_needed=False, may_be_null=True)
_OBJECT = Field(kind=dict, is_needed=False, may_be_null=True)
_KNOWN = {
    "max_seq_length": _LENGTH,
    "processing_kwargs": Field(kind=dict, fields={"text": _OBJECT, "common": _OBJECT}, is_needed=False, may_be_null=True),
    "modality_config": Field(kind=dict, items=Field(kind=dict), is_needed=False),
    **dict.fromkeys(("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs"), _OBJECT),
}
_HANDLED = (*_KNOWN, "do_lower_case", "transformer_task", "module_output_name")
_NO_EFFECT = ("unpad_inputs", "backend", "cache_dir")
# by the earlier and the present name of each: entries that change no vector, or its rounding alone, for which tain has its own setting
_HARMLESS: dict[tuple[str, str], tuple[str, ...]] = {
    ("model_args", "model_kwargs"): (
        *("attn_implementation", "dtype", "torch_dtype", "low_cpu_mem_usage", "use_safetensors", "trust_remote_code"),
    ),
    ("tokenizer_args", "processor_kwargs"): ("padding_side", "use_fast", "trust_remote_code"),
    ("config_args", "config_kwargs"): ("use_cache", "trust_remote_code"),
}
_OF_TEXTS: dict[str, tuple[object, ...]] = {  # settings of the tokenizer's call that give the same vectors as the defaults
    "padding": (True, "longest"),
    "truncation": (True, "longest_first", "only_first"),
    "add_special_tokens": (True,),
    "return_attention_mask": (True, None),
    "return_token_type_ids": (None,),
    "return_tensors": ("pt",),
}


@dataclass(frozen=True)
class TransformerSettings:
    """Settings that change vectors.

    Attributes:
        max_tokens: Length limit including special tokens, above or below that of the tokenizer; None if not stored.
        lower_cases: Texts are lower-cased before tokenization.
    """

    max_tokens: int | None = None
    lower_cases: bool = False


def read_settings(stored: Callable[[str], Any], folder: str, *, task: Task | None, name: str) -> TransformerSettings:
    """Read the settings of a ``Transformer`` module.

    Args:
        stored: Reads a JSON file of the model; empty if it does not exist.
        folder: The module's folder within the model, ending in a slash unless it is the model's own.
        task: What sentence-transformers uses the module for: token vectors to pool, or the scores of a cross-encoder. None for a bare
            model, of which only the length limit and lower-casing matter.
        name: The model's name, for messages.

    Raises:
        UserError: The file is damaged, or a setting would change vectors or scores and tain does not apply it.
    """
    for file in SETTINGS_FILES[:1] if task is None else SETTINGS_FILES:
        if found := stored(f"{folder}{file}"):
            return _settings(found, f"{folder}{file}", task=task, name=name)
    return TransformerSettings()


def _settings(found: Any, file: str, *, task: Task | None, name: str) -> TransformerSettings:
    found = checked_object(found, _KNOWN, damaged=f"model {name!r} has a damaged {file}", advice="save the model again")
    problems: list[str] = []
    limit = found.get("max_seq_length")
    for (earlier, present), harmless in _HARMLESS.items():
        key = earlier if earlier in found else present  # the earlier name wins
        given = dict(found.get(key) or {})
        if key in ("tokenizer_args", "processor_kwargs") and given.get("model_max_length") is not None:
            limit = _length(given.pop("model_max_length"), f"{key}.model_max_length", problems)
        problems += [f"{key}.{each}" for each in given if each not in harmless]
    limit = _limit_of_calls(found.get("processing_kwargs") or {}, limit, problems)
    problems += _outputs(found, task or "feature-extraction")
    problems += [key for key, value in found.items() if key not in (*_HANDLED, *_NO_EFFECT) and value is not None]
    if problems and task is not None:
        result = "vectors" if task == "feature-extraction" else "scores"
        raise UserError(
            f"model {name!r} sets {problems[0]} in {file}, which tain does not apply, so its {result} would differ: use"
            " sentence-transformers for it, or remove the setting"
        )
    return TransformerSettings(limit, bool(found.get("do_lower_case")))


def _limit_of_calls(given: Mapping[str, Any], limit: int | None, problems: list[str]) -> int | None:
    """The length limit after ``processing_kwargs``; settings that tain does not apply are added to ``problems``."""
    merged: dict[str, tuple[str, Any]] = {}
    for part in ("text", "common"):  # the second wins
        merged |= {key: (f"processing_kwargs.{part}.{key}", value) for key, value in (given.get(part) or {}).items()}
    for key, (path, value) in merged.items():
        if key == "max_length":
            limit = limit if value is None else _length(value, path, problems)
        elif key != "logits_to_keep" and not any(value is each or value == each for each in _OF_TEXTS.get(key, ())):
            problems.append(path)
    return limit


def _length(value: Any, path: str, problems: list[str]) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    problems.append(path)
    return None


def _outputs(found: Mapping[str, Any], task: Task) -> list[str]:
    """Settings for another output than that of the task, or for texts within a chat template."""
    problems, (output, name) = [], _TASKS[task]
    if found.get("transformer_task", task) != task:
        problems.append(f"transformer_task {found['transformer_task']!r}")
    modalities = found.get("modality_config")
    if modalities is None:
        return problems  # sentence-transformers then ignores module_output_name
    if "message" in modalities:
        problems.append("modality_config.message, a chat template,")
    of_text = modalities.get("text", {})
    if of_text.get("method") != "forward" or of_text.get("method_output_name") not in (output, [output]):
        problems.append("modality_config.text")
    if found.get("module_output_name") != name:
        problems.append("module_output_name")
    return problems

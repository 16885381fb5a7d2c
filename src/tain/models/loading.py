"""Load transformers models and tokenizers, and refuse unusable ones.

All commands load transformers models through this module, so each refusal exists once.
"""

import inspect
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from tain.encoders.transformer import SegmentTemplate, position_offset_of, refuse_without_width
from tain.foundation.errors import UserError
from tain.foundation.machine import collect_as_usual
from tain.models.hub import client_off
from tain.models.kinds import kind_of
from tain.models.size_limits import refuse_large_sizes
from tain.text.tokenizer_limits import refuse_wild_tokenizer

_UNLIMITED = 10**6  # tokenizers without a limit report a number near 1e30
# exceptions of transformers for missing or damaged files, or invalid config values
_UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    RuntimeError,
    TypeError,
    AttributeError,
    ImportError,
    ArithmeticError,
    AssertionError,
    SafetensorError,
    StrictDataclassError,
)
_SPECIAL_TOKENS = ("pad_token", "cls_token", "sep_token", "mask_token", "bos_token", "eos_token")


def load_pretrained(auto_class: str, path: str, *, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """Load a float32 model and its tokenizer in eval mode, from safetensors only.

    Args:
        auto_class: Name of a transformers class, such as ``AutoModel``.
        path: A local folder or a hub name.
        trust_remote_code: Allow Python code from the model's folder.

    Raises:
        UserError: transformers cannot find or read it, it is not a text model or not of this class, weights are missing or not finite, or
            its tokenizer is missing or belongs to another model.
    """
    model, tokenizer, _ = load_with_missing(auto_class, path, trust_remote_code=trust_remote_code)
    return model, tokenizer


def load_with_missing(auto_class: str, path: str, *, trust_remote_code: bool = False) -> tuple[Any, Any, Collection[str]]:
    """Load like ``load_pretrained``, and also return the parameters (of a head or pooler) that the folder lacks and that are random."""
    import transformers

    collect_as_usual()
    refuse_large_sizes(Path(path), name=path)
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # loading an encoder from a larger checkpoint always warns of unused weights
    transformers.logging.disable_progress_bar()
    kind = kind_of(path)
    if auto_class == "AutoModel" and kind.is_encoder_alone:
        auto_class = "AutoModelForTextEncoding"
    chosen = getattr(transformers, auto_class)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    off = ExitStack()
    try:
        options["local_files_only"] = off.enter_context(client_off(path, trust_remote_code=trust_remote_code))
        with _told_as_user_error(path):
            config = transformers.AutoConfig.from_pretrained(path, **options)
        refuse_by_config(path, config, chosen, is_encoder_alone=kind.is_encoder_alone)
        with _told_as_user_error(path):
            tokenizer = transformers.AutoTokenizer.from_pretrained(path, **options)
        _refuse_made_up_tokenizer(path, tokenizer)
        if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
            refuse_wild_tokenizer(backend, name=path)
        with _told_as_user_error(path):
            model, loading = chosen.from_pretrained(
                path,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
    finally:
        off.close()
        transformers.logging.set_verbosity(verbosity)
    _refuse_lacking(path, model, loading["missing_keys"])
    _refuse_foreign_tokenizer(path, model, tokenizer)
    _refuse_not_finite(path, model)
    return model.eval(), tokenizer, loading["missing_keys"]


def load_static_tokenizer(file: Path, *, name: str) -> Any:
    """Load the tokenizer of static token vectors, which adds no special tokens to a text.

    Raises:
        UserError: It cannot be read, or ordinary texts take all time or memory.
    """
    import transformers

    try:
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(file))
    except Exception as error:  # the package tokenizers raises nothing narrower
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"model {name!r} has a tokenizer.json that cannot be read ({reason}): copy the whole folder again") from None
    tokenizer.backend_tokenizer.post_processor = None
    refuse_wild_tokenizer(tokenizer.backend_tokenizer, name=name)
    return tokenizer


def lower_case_first(tokenizer: Any, *, name: str) -> None:
    """Let a tokenizer lower-case texts before anything else, as sentence-transformers does for ``do_lower_case``.

    Raises:
        UserError: The tokenizer is written in Python.
    """
    from tokenizers import normalizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"model {name!r} lower-cases texts before its tokenizer (do_lower_case), which needs a tokenizer.json: set it to false and"
            " lower-case your texts yourself"
        )
    own = backend.normalizer
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *([] if own is None else [own])])


def load_tokenizer(name: str | Path, *, trust_remote_code: bool = False) -> Any:
    """Load only a tokenizer.

    Args:
        name: A folder or a hub name.
        trust_remote_code: Allow Python code from the folder.

    Raises:
        UserError: It cannot be read, has an empty vocabulary, or needs Python code from its folder that is not allowed.
    """
    import transformers

    try:
        with client_off(str(name), trust_remote_code=trust_remote_code) as is_off:
            # False rather than None, which makes transformers ask at the terminal
            found = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code, local_files_only=is_off)
    except _UNREADABLE as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"tokenizer {str(name)!r} contains its own Python code: review it, then give --trust-remote-code if you trust it"
            ) from None
        why = " ".join(str(error).split())[:200]
        raise UserError(f"tokenizer {str(name)!r} cannot be read ({why}): give a model's folder or hub name") from None
    _refuse_made_up_tokenizer(str(name), found)
    return found


@contextmanager
def _told_as_user_error(path: str) -> Iterator[None]:
    """Convert errors of transformers about an unreadable folder into a one-line ``UserError``."""
    try:
        yield
    except _UNREADABLE as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"model {path!r} contains its own Python code: review it, then give --trust-remote-code if you trust it"
            ) from None
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"model {path!r} cannot be loaded ({reason}): give a model folder, a hub name you can reach, or tain-mini"
        ) from None


def refuse_by_config(path: str, config: Any, auto_class: Any, *, is_encoder_alone: bool = False) -> None:
    """Refuse, by its config, a model that is not a text encoder or lacks the requested head, before reading weights.

    Args:
        path: The model's name, for messages.
        config: As loaded by ``AutoConfig``.
        auto_class: Class to load, such as ``transformers.AutoModel``.
        is_encoder_alone: The weights are only the encoder of an encoder-decoder.

    Raises:
        UserError: The model is unsuitable.
    """
    of_type = f"model {path!r} is of the type {config.model_type}"
    is_for_vectors = auto_class.__name__ in ("AutoModel", "AutoModelForMaskedLM", "AutoModelForTextEncoding")
    if config.is_encoder_decoder and is_for_vectors and not is_encoder_alone:
        raise UserError(
            f"{of_type}, an encoder-decoder: give an encoder such as BERT, RoBERTa or ModernBERT, or its encoder saved separately (as T5EncoderModel is)"
        )
    if is_for_vectors:
        refuse_without_width(config, of_type)
    if getattr(config, "auto_map", None):
        return  # the folder's own code defines the model
    with _told_as_user_error(path):  # transformers registers some classes that do not exist
        found = auto_class._model_mapping.get(type(config), None)
    if found is None:
        wanted = auto_class.__name__.removeprefix("AutoModelFor").removeprefix("AutoModel") or "encoder"
        raise UserError(f"{of_type}, for which transformers has no {wanted} class: give an encoder such as BERT, RoBERTa or ModernBERT")
    (found,) = found[:1] if isinstance(found, tuple | list) else (found,)
    if found.main_input_name != "input_ids":
        raise UserError(f"{of_type}, which reads {found.main_input_name}, not texts: give a text encoder such as BERT or RoBERTa")


def _refuse_made_up_tokenizer(path: str, tokenizer: Any) -> None:
    """Refuse a tokenizer without files: transformers would create one with special tokens only, which maps all texts to the same ids."""
    folder = Path(path)
    files = type(tokenizer).vocab_files_names
    needed = [files[each] for each in ("vocab_file", "merges_file") if each in files]
    if folder.is_dir() and needed and not (folder / "tokenizer.json").exists():
        missing = [file for file in needed if not (folder / file).exists()]
        if missing:
            raise UserError(
                f"{path!r} has no tokenizer: tokenizer.json, or {' and '.join(missing)}, is missing; copy the tokenizer's files into the folder"
            )
    vocabulary = tokenizer.get_vocab()
    if len(vocabulary) < 1000 and set(vocabulary.values()) <= set(tokenizer.all_special_ids):
        raise UserError(f"{path!r} has a tokenizer with nothing but {len(vocabulary)} special tokens: copy the model's tokenizer files")


def _refuse_foreign_tokenizer(path: str, model: Any, tokenizer: Any) -> None:
    """Refuse a tokenizer with ids beyond the embedding table, or with special tokens missing from its vocabulary."""
    table = model.get_input_embeddings() if _has_table(model) else None
    rows = table.weight.shape[0] if isinstance(table, torch.nn.Embedding) else None
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if rows is not None and largest >= rows:
        raise UserError(
            f"model {path!r} has vectors for {rows:,} tokens, but its tokenizer has {largest + 1:,}: "
            "give a folder whose model and tokenizer belong together"
        )
    unknown = tokenizer.unk_token_id
    for name in _SPECIAL_TOKENS:
        token = getattr(tokenizer, name, None)
        if token is None or str(token) == str(tokenizer.unk_token):
            continue
        number = tokenizer.convert_tokens_to_ids(str(token))
        if number is None or number == unknown:
            raise UserError(
                f"model {path!r} has a tokenizer whose {name}, {str(token)!r}, is not in its vocabulary: give the files that belong together"
            )


def _has_table(model: Any) -> bool:
    try:
        return model.get_input_embeddings() is not None
    except NotImplementedError:  # such as CANINE, which hashes characters
        return False


def _refuse_not_finite(path: str, model: torch.nn.Module) -> None:
    """Refuse weights with NaN or infinity, which would make every vector NaN and show up far from the cause."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
            count = int((~torch.isfinite(tensor)).sum())
            raise UserError(
                f"model {path!r} has weights that are not finite ({count:,} of {tensor.numel():,} numbers in {name}): "
                "it is damaged, or its training diverged; give another copy"
            )


def _refuse_lacking(path: str, model: Any, missing: Collection[str]) -> None:
    """Refuse an encoder with missing weights, which transformers initializes randomly; a new head or pooler is allowed."""
    prefix = f"{model.base_model_prefix}." if model.base_model is not model else ""
    lacking = sorted(name for name in missing if name.startswith(prefix) and "pooler" not in name)
    if lacking:
        raise UserError(
            f"model {path!r} lacks weights of its encoder ({len(lacking)} of them, such as {lacking[0]}), "
            "which would be random: give a folder whose config.json and weights belong together"
        )


def padding_id(model: Any, tokenizer: Any, *, name: str) -> int:
    """Padding token id for batches of a model with a head; sets it if model or tokenizer lack one.

    Raises:
        UserError: The tokenizer has neither a padding nor an end token.
    """
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"model {name!r} has a tokenizer without a padding token and without an end token: give it one of them")
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:  # transformers finds a text's last token by this id
        model.config.pad_token_id = tokenizer.pad_token_id
    return int(model.config.pad_token_id)


def max_length(model: Any, tokenizer: Any, *, stored: int | None = None) -> int:
    """Length limit of a model in tokens, including special tokens.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        stored: The limit stored in a sentence-transformers folder. There it replaces the tokenizer's limit, and positions that are
            computed, not looked up in a table, may go beyond ``max_position_embeddings``.
    """
    limits = [int(tokenizer.model_max_length) if stored is None else stored]
    positions = getattr(model.config, "max_position_embeddings", None)
    # XLNet, which has no limit, reports -1
    if positions and positions > 0 and (stored is None or _has_position_table(model, int(positions))):
        limits.append(int(positions) - position_offset_of(model))
    longest = min(limits)
    return 512 if longest > _UNLIMITED else longest


def segment_template(model: Any, tokenizer: Any, *, name: str) -> SegmentTemplate | None:
    """Segments (token types) that a model's tokenizer gives to a text; None if they change nothing.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        name: The model's name, for messages.

    Raises:
        UserError: The tokens of a text are not all of one segment, or the model does not have it.
    """
    if "token_type_ids" not in tokenizer.model_input_names or "token_type_ids" not in inspect.signature(model.forward).parameters:
        return None
    found = tokenizer("a b", return_special_tokens_mask=True)
    kinds, is_special = found.get("token_type_ids", []), found["special_tokens_mask"]
    known = getattr(model.config, "type_vocab_size", None)
    if not kinds or (known and not any(kinds)):
        return None  # models with a table of segments take 0 without being told; XLNet and XLM compute something else then
    if known and max(kinds) >= known:
        raise UserError(
            f"model {name!r} has {known} token types, but its tokenizer gives the type {max(kinds)}:"
            " give a folder whose model and tokenizer belong together"
        )
    inner = [position for position, special in enumerate(is_special) if not special]
    first, last = (inner[0], inner[-1] + 1) if inner else (0, len(kinds))
    if len(set(kinds[first:last])) != 1:
        raise UserError(
            f"model {name!r} has a tokenizer that gives the tokens of a text different segments: use sentence-transformers for it"
        )
    return SegmentTemplate(tuple(kinds[:first]), kinds[first], tuple(kinds[last:]))


def _has_position_table(model: torch.nn.Module, positions: int) -> bool:
    """Whether a model looks positions up in a table with a row for each."""
    tables = ((name.rpartition(".")[2], getattr(module, "weight", None)) for name, module in model.named_modules())
    return any(
        ("position" in name or name == "wpe") and isinstance(weight, torch.Tensor) and weight.ndim == 2 and len(weight) >= positions
        for name, weight in tables
    )

"""The saved encoder: a sentence-transformers folder in the key layout that its versions 2 to 6 read, plus ``tain.json``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import save_file

from tain.foundation.choices import BUILT_IN, LEXICAL, Pooling, is_baseline
from tain.foundation.errors import ShapeError, UserError
from tain.foundation.files import lies_inside
from tain.foundation.json_files import Field, checked_object
from tain.foundation.machine import versions
from tain.models.correction import LANGUAGE_FILE, LanguageCorrection, LinearCorrection, read_by_language, read_linear

FORMAT = 1

_POOLING_KEYS: dict[str, Pooling] = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
_RECORD = {
    "format": Field(kind=int, least=1, is_needed=False),
    "kind": Field(kind=str, is_needed=False),
    "layout": Field(kind=str, among=("auto", "packed", "padded"), is_needed=False),
    "ranker": Field(kind=dict, is_needed=False, may_be_null=True),
    "correction": Field(kind=dict, is_needed=False),
}
_PICKLES = ("pytorch_model.bin", "model.bin", "pytorch_model.pt", "model.pt", "model.pkl", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class Layout:
    """What a model's folder says about itself.

    Attributes:
        path: A local folder, or a hub name.
        pooling: How its text vectors are pooled; None where only a bare model is stored.
        max_tokens: Its length limit, special tokens included; None where it names none.
        normalize: Its vectors are scaled to length 1.
        record: Its ``tain.json``; empty where there is none.
        correction: What is done to its vectors after pooling; None where nothing is.
        sentence_transformers: Its ``config_sentence_transformers.json``; empty where there is none.
        include_prompt: Whether sentence-transformers takes the tokens of a prompt into the mean.
        token_weights: Weight of each token id in mean pooling, as sentence-transformers' ``WordWeights`` stores it; None where all
            weigh the same.
    """

    path: str
    pooling: Pooling | None
    max_tokens: int | None
    normalize: bool
    record: dict[str, Any]
    correction: LinearCorrection | LanguageCorrection | None = None
    sentence_transformers: dict[str, Any] = field(default_factory=dict)
    include_prompt: bool = True
    token_weights: np.ndarray | None = None


def locate(name: str | Path) -> str:
    """Turn a model name into what transformers loads: the built-in model's folder, a local folder, or a hub name.

    Raises:
        UserError: A local path is a file, holds no model, or holds only pickled weights; or the name is that of a baseline.
    """
    if isinstance(name, str) and is_baseline(name):
        folder = f", or ./{LEXICAL} for a folder of that name" if name == LEXICAL else ""
        raise UserError(
            f"model is {name!r}, a baseline that only tain evaluate and tain rank evaluate take:"
            f" give a model folder, a hub name, or tain-mini{folder}"
        )
    if str(name) in BUILT_IN:
        folder = Path(str(resources.files("tain") / "assets" / BUILT_IN[str(name)]))
        if not (folder / "config.json").exists():
            raise UserError(f"the built-in model {str(name)!r} is not in this installation: install tain again, or name another model")
        return str(folder)
    path = Path(name)
    if not path.exists():
        is_path = path.is_absolute() or str(name).startswith(("./", "../", "~")) or str(name).count("/") > 1
        if is_path:
            raise UserError(f"model {str(name)!r} does not exist: give a model folder, a hub name, or tain-mini")
        return str(name)
    if not path.is_dir():
        raise UserError(f"model {str(name)!r} is a file: give the folder that holds config.json and model.safetensors")
    if not any((path / file).exists() for file in ("config.json", "modules.json", "tain.json")):
        raise UserError(
            f"model folder {str(name)!r} has no config.json: give a folder written by transformers, sentence-transformers or tain"
        )
    return str(path)


def refuse_pickles(path: str) -> None:
    """Refuse a local folder whose weights could only be read by unpickling, which can run any code.

    Raises:
        UserError: There is no safetensors file, but a pickle.
    """
    folder = Path(path)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    for name in _PICKLES:
        if (folder / name).exists():
            raise UserError(
                f"model {path!r} holds its weights in {name}, a pickle, which can run any code when read: "
                "convert it with model.save_pretrained(..., safe_serialization=True) where you trust it"
            )
    if (folder / "student.onnx").exists():
        raise UserError(
            f"model {path!r} is a student, which tain encode, evaluate, label and serve can run, and nothing can train or look into: give a model"
        )
    raise UserError(f"model {path!r} holds no weights: model.safetensors is missing")


def read_layout(name: str | Path) -> Layout:
    """Read what a model's folder says about pooling, length limit and normalising, without loading weights.

    Raises:
        UserError: The folder is no model, or has parts that tain does not run.
    """
    path = locate(name)

    def stored(file: str) -> Any:
        return read_stored_json(path, file)

    def stored_object(file: str, **known: Field) -> dict[str, Any]:
        return checked_object(stored(file), known, damaged=f"model {str(name)!r} has a damaged {file}", advice="save the model again")

    record = stored("tain.json")
    _refuse_newer(record, name)
    ranker = record.get("ranker") or {}
    if record.get("kind") == "ranker" and not (ranker.get("type") == "bi" and ranker.get("shared")):
        raise UserError(f"model {str(name)!r} is a ranker, not one encoder: use it with tain rank, or give one of the encoders inside it")
    modules = stored("modules.json") or []
    if not isinstance(modules, list) or not all(
        isinstance(module, dict) and isinstance(module.get("type"), str) and isinstance(module.get("path"), str) for module in modules
    ):
        raise UserError(f"model {str(name)!r} has a damaged modules.json: save the model again")
    if outside := [module["path"] for module in modules if not lies_inside(Path(path), module["path"])]:
        raise UserError(
            f"model {str(name)!r} names the folder {outside[0]!r} in modules.json, which lies outside of it: save the model again"
        )
    transformer, pooling, normalize, inner, correction = path, None, False, "", None
    include_prompt, token_weights = True, None
    for module in modules:
        kind = str(module["type"]).rpartition(".")[2]
        if kind == "Transformer":
            inner = f"{module['path']}/" if module["path"] else ""
        elif kind == "WordWeights" and pooling is None and token_weights is None:
            token_weights = _token_weights(
                stored(f"{module['path']}/config.json") or stored(f"{module['path']}/wordweights_config.json"), name
            )
        elif kind == "Pooling":
            of_pooling = stored_object(f"{module['path']}/config.json")
            pooling, include_prompt = _pooling(of_pooling, name), of_pooling.get("include_prompt") is not False
        elif kind == "Normalize":
            normalize = True
        elif kind == "Dense" and correction is None and not normalize:
            weights = _stored_file(path, f"{module['path']}/model.safetensors")
            correction = read_linear(stored_object(f"{module['path']}/config.json"), weights, name=str(name))
        else:
            raise UserError(
                f"model {str(name)!r} has a {kind} layer after its encoder, which tain does not run: use sentence-transformers for it"
            )
    if token_weights is not None and pooling != "mean":
        raise UserError(f"model {str(name)!r} weighs its tokens and pools by {pooling}, which tain does not run: it weighs the mean alone")
    if record.get("correction", {}).get("method") == "languages":
        correction = read_by_language(_stored_file(path, LANGUAGE_FILE), name=str(name))
    limits = stored_object(f"{inner}sentence_bert_config.json", max_seq_length=Field(kind=int, least=1, is_needed=False, may_be_null=True))
    is_lower_cased = limits.get("do_lower_case") and not stored_object(f"{inner}tokenizer_config.json").get("do_lower_case")
    about = stored("config_sentence_transformers.json")
    refuse_text_changes(about, name, is_lower_cased=bool(is_lower_cased))
    if Path(path).is_dir():
        transformer = str(Path(path) / inner)
        refuse_pickles(transformer)
    elif inner:
        raise UserError(f"model {str(name)!r} keeps its encoder in the subfolder {inner!r}: download it and give the local folder")
    return Layout(transformer, pooling, limits.get("max_seq_length"), normalize, record, correction, about, include_prompt, token_weights)


def refuse_text_changes(of_whole: Any, name: str | Path, *, is_lower_cased: bool) -> None:
    """Refuse what sentence-transformers would do to every text first: without it the vectors would be others.

    Args:
        of_whole: The folder's ``config_sentence_transformers.json``.
        name: The model's name, for messages.
        is_lower_cased: Texts are lower-cased before the tokenizer sees them.

    Raises:
        UserError: There is such a thing, or the file is damaged.
    """
    if not isinstance(of_whole, dict):
        raise UserError(f"model {str(name)!r} has a damaged config_sentence_transformers.json: save the model again")
    prompts, default = of_whole.get("prompts") or {}, of_whole.get("default_prompt_name")
    if default and prompts.get(default):
        raise UserError(
            f"model {str(name)!r} puts the prompt {prompts[default]!r} before every text, which tain does not: set its default_prompt_name to null"
            " and write the prompt into your texts"
        )
    if is_lower_cased:
        raise UserError(
            f"model {str(name)!r} has texts lower-cased before its tokenizer (do_lower_case), which tain does not: set it to false and "
            "lower-case your texts yourself"
        )


def write_layout(
    folder: Path,
    *,
    pooling: Pooling,
    dim: int,
    max_tokens: int,
    normalize: bool,
    record: dict[str, Any],
    card: str,
    correction: LinearCorrection | LanguageCorrection | None = None,
    similarity: Literal["cosine", "dot"] = "cosine",
    kept: dict[str, Any] | None = None,
    include_prompt: bool = True,
    token_weights: np.ndarray | None = None,
    vocabulary: Sequence[str] = (),
) -> None:
    """Write everything of a saved encoder but its weights and tokenizer.

    Args:
        folder: An existing folder that holds, or will hold, what transformers saves.
        pooling: ``cls`` or ``mean``; sentence-transformers knows no mean over padding.
        dim: Width of the pooled vectors.
        max_tokens: Length limit, special tokens included.
        normalize: Scale vectors to length 1.
        record: What ``tain.json`` keeps beside format and versions: kind, config, base model, seeds, figures.
        card: The model card, Markdown.
        correction: What is done to pooled vectors. A linear one becomes a Dense layer, which sentence-transformers runs too; one by
            language a file of its own, which it passes over, and ``record`` must say so.
        similarity: How its vectors are to be compared.
        kept: Entries of ``config_sentence_transformers.json`` that stay, such as prompts.
        include_prompt: Whether sentence-transformers takes the tokens of a prompt into the mean.
        token_weights: Weight of each token id in mean pooling; becomes a WordWeights module, which sentence-transformers runs too.
        vocabulary: The token of each id; needed with ``token_weights``.
    """
    weighs = ["WordWeights"] if token_weights is not None else []
    kinds = [*weighs, "Pooling", *(["Dense"] if isinstance(correction, LinearCorrection) else []), *(["Normalize"] if normalize else [])]
    modules = [("", "Transformer"), *((f"{position}_{kind}", kind) for position, kind in enumerate(kinds, start=1))]
    _write_json(
        folder / "modules.json",
        [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(modules)
        ],
    )
    for path, _ in modules[1:]:
        (folder / path).mkdir(exist_ok=True)
    paths = {kind: folder / path for path, kind in modules}
    if token_weights is not None:
        _write_token_weights(paths["WordWeights"], token_weights, vocabulary)
    if isinstance(correction, LinearCorrection):
        correction.save(paths["Dense"])
    elif correction is not None:
        correction.save(folder)
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    chosen = "cls_token" if pooling == "cls" else "mean_tokens"
    _write_json(
        paths["Pooling"] / "config.json",
        {"word_embedding_dimension": dim, **{f"pooling_mode_{mode}": mode == chosen for mode in modes}, "include_prompt": include_prompt},
    )
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    _write_similarity(folder, similarity, kept)
    write_record(folder, record)
    (folder / "README.md").write_text(card, encoding="utf-8")


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write ``tain.json``: format and versions beside what is given."""
    _write_json(folder / "tain.json", {"format": FORMAT, **record, "versions": versions()})


def read_record(name: str | Path) -> dict[str, Any]:
    """Read a model's ``tain.json``; empty where it has none, and for what is no local folder.

    Raises:
        UserError: It is of a newer format, or damaged.
    """
    folder = Path(name)
    record = _read_json(folder / "tain.json") if folder.is_dir() else {}
    _refuse_newer(record, name)
    return record


def _refuse_newer(record: Any, name: str | Path) -> None:
    checked_object(record, _RECORD, damaged=f"model {str(name)!r} has a damaged tain.json", advice="save the model again")
    if record.get("format", FORMAT) > FORMAT:
        raise UserError(f"model {str(name)!r} was saved in format {record['format']}, newer than this tain reads ({FORMAT}): upgrade tain")


def write_router(folder: Path, *, query: str, document: str, kept: dict[str, Any] | None = None) -> None:
    """Let sentence-transformers (5 and later) read two saved encoders below ``folder`` as one model with two towers.

    Args:
        folder: An existing folder.
        query: Name of the subfolder that encodes queries (``encode_query``).
        document: Name of the one that encodes documents (``encode_document``).
        kept: Entries of ``config_sentence_transformers.json`` that stay, such as prompts.
    """
    _write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Router"}])
    types, structure = {}, {}
    for route, tower in {"query": query, "document": document}.items():
        modules = json.loads((folder / tower / "modules.json").read_text(encoding="utf-8"))
        paths = {f"{tower}/{module['path']}".rstrip("/"): module["type"] for module in modules}
        types |= paths
        structure[route] = list(paths)
    routes = {"types": types, "structure": structure, "parameters": {"default_route": "query", "allow_empty_key": True}}
    _write_json(folder / "router_config.json", routes)
    _write_similarity(folder, "dot", kept)


def _write_similarity(folder: Path, similarity: str, kept: dict[str, Any] | None = None) -> None:
    found = versions()
    written_for = {"sentence_transformers": "2.2.2", "transformers": found.get("transformers"), "pytorch": found.get("torch")}
    _write_json(
        folder / "config_sentence_transformers.json", {**(kept or {}), "__version__": written_for, "similarity_fn_name": similarity}
    )


def _write_token_weights(folder: Path, weights: np.ndarray, vocabulary: Sequence[str]) -> None:
    """Write sentence-transformers' WordWeights module: the table as weights, and by token, which is what older versions read."""
    if len(vocabulary) != len(weights):
        raise ShapeError(f"each token needs one weight, got {len(weights)} weights and {len(vocabulary)} tokens")
    by_token = {token: round(float(weight), 7) for token, weight in zip(vocabulary, weights, strict=True)}
    config = {"vocab": list(vocabulary), "word_weights": by_token, "unknown_word_weight": 1}
    for name in ("config.json", "wordweights_config.json"):  # what versions from 5 on read, and what those before read
        (folder / name).write_text(json.dumps(config, ensure_ascii=False) + "\n", encoding="utf-8")
    save_file({"emb_layer.weight": np.asarray(list(by_token.values()), dtype=np.float32)[:, None]}, folder / "model.safetensors")


def _token_weights(config: Any, name: str | Path) -> np.ndarray:
    """Read the weight of each token id from the config of a WordWeights module, by sentence-transformers' own rule."""
    is_whole = isinstance(config, dict) and isinstance(config.get("vocab"), list) and isinstance(config.get("word_weights"), dict)
    if not is_whole:
        raise UserError(f"model {str(name)!r} has token weights without vocab and word_weights: save the model again")
    given, otherwise = config["word_weights"], config.get("unknown_word_weight", 1)
    try:
        weights = np.array([given.get(token, given.get(token.lower(), otherwise)) for token in config["vocab"]], dtype=np.float32)
    except (TypeError, ValueError, AttributeError):
        raise UserError(f"model {str(name)!r} has token weights that are no numbers: save the model again") from None
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise UserError(f"model {str(name)!r} has token weights below 0, or not finite: save the model again")
    return weights


def _pooling(config: dict[str, Any], name: str | Path) -> Pooling:
    chosen = [key for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
    if not chosen and config.get("pooling_mode") in ("cls", "mean"):
        return config["pooling_mode"]
    if len(chosen) != 1 or chosen[0] not in _POOLING_KEYS:
        raise UserError(
            f"model {str(name)!r} pools by {chosen or config.get('pooling_mode')}, which tain does not run: it knows cls and mean"
        )
    return _POOLING_KEYS[chosen[0]]


def read_stored_json(path: str, file: str) -> Any:
    """Read a JSON file of a local folder or hub name; empty where there is none.

    Raises:
        UserError: It is damaged.
    """
    return _read_json(_stored_file(path, file))


def _stored_file(path: str, file: str) -> Path | None:
    """Where a file of a model lies: in its local folder, or in the hub's cache, fetched there when a network is at hand."""
    if Path(path).is_dir():
        return Path(path) / file
    from transformers.utils.hub import cached_file

    from tain.models.hub import client_off

    try:
        with client_off(path) as is_off:
            found = cached_file(
                path,
                file,
                local_files_only=is_off,
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
    except (OSError, ValueError):
        return None  # no such model: loading its weights says so, with the reason
    return Path(found) if found else None


def _read_json(path: Path | None) -> Any:
    if path is None or not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"model file {str(path)!r} is not JSON ({error}): save the model again") from None


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

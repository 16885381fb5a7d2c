"""Saved encoder format: a sentence-transformers folder readable by its versions 2 to 6, plus ``tain.json``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from safetensors.numpy import save_file

from tain.foundation.choices import BUILT_IN, STATIC, is_baseline
from tain.foundation.errors import ShapeError, UserError
from tain.foundation.files import lies_inside
from tain.foundation.json_files import Field, checked_object
from tain.foundation.machine import versions
from tain.models.correction import (
    LANGUAGE_FILE,
    LanguageCorrection,
    LinearCorrection,
    is_linear,
    read_by_language,
    read_linear,
    read_tensors,
)
from tain.models.transformer_settings import SETTINGS_FILES, TransformerSettings, read_settings

if TYPE_CHECKING:
    from tain.models.layers import LayerStack

FORMAT = 1

# in the order in which sentence-transformers joins vectors of several kinds
_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_NEW_POOLING_KEYS = ("pooling_mode_weightedmean_tokens", "pooling_mode_lasttoken")  # unknown to early versions
_AFTER_POOLING = ("Dense", "LayerNorm", "Normalize", "Dropout")
_KNOWN = ("Transformer", "StaticEmbedding", "WordWeights", "WeightedLayerPooling", "Pooling", *_AFTER_POOLING)
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
    """Settings stored in a model's folder.

    Attributes:
        path: A local folder, or a hub name.
        pooling: Pooling of token vectors, several joined by ``+``; None if only a bare model is stored.
        max_tokens: Length limit including special tokens; None if not stored.
        normalize: Vectors are scaled to length 1.
        record: Its ``tain.json``; empty if there is none.
        correction: Correction or layers applied after pooling; None if there are none.
        sentence_transformers: Its ``config_sentence_transformers.json``; empty if there is none.
        include_prompt: Whether sentence-transformers includes prompt tokens in the mean.
        token_weights: Weight per token id, as stored in sentence-transformers' ``WordWeights``; None for equal weights.
        layer_mix: Weights of the last layers' outputs, as stored in its ``WeightedLayerPooling``; None for the last layer alone.
        is_static: The folder holds static token vectors (its ``StaticEmbedding``), no transformer.
        lower_cases: Texts are lower-cased before tokenization.
        subfolder: Folder of static token vectors within ``path``, ending in a slash; empty for a local folder.
    """

    path: str
    pooling: str | None
    max_tokens: int | None
    normalize: bool
    record: dict[str, Any]
    correction: "LinearCorrection | LanguageCorrection | LayerStack | None" = None
    sentence_transformers: dict[str, Any] = field(default_factory=dict)
    include_prompt: bool = True
    token_weights: np.ndarray | None = None
    layer_mix: np.ndarray | None = None
    is_static: bool = False
    lower_cases: bool = False
    subfolder: str = ""


def locate(name: str | Path) -> str:
    """Resolve a model name to what transformers loads: the built-in model's folder, a local folder, or a hub name.

    Raises:
        UserError: A local path is a file, holds no model, or holds only pickled weights; or the name is that of a baseline.
    """
    if isinstance(name, str) and is_baseline(name):
        folder = "" if name.startswith(STATIC) else f", or ./{name} for a folder of that name"
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
    """Refuse a local folder with pickled weights only, since unpickling can run any code.

    Raises:
        UserError: There is a pickle but no safetensors file.
    """
    folder = Path(path)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    for name in _PICKLES:
        if (folder / name).exists():
            raise UserError(
                f"model {path!r} stores its weights in {name}, a pickle, which can run any code when loaded: "
                "convert it with model.save_pretrained(..., safe_serialization=True) if you trust it"
            )
    if (folder / "student.onnx").exists():
        raise UserError(
            f"model {path!r} is a student, which tain encode, evaluate, label and serve can run, but which cannot be trained or inspected: give a transformer model"
        )
    raise UserError(f"model {path!r} has no weights: model.safetensors is missing")


def read_layout(name: str | Path) -> Layout:
    """Read the pooling, length limit and normalization stored in a model's folder, without loading weights.

    Raises:
        UserError: The folder is not a model, or has parts that tain does not support.
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
        raise UserError(
            f"model {str(name)!r} is a ranker, not a single encoder: use it with tain rank, or give one of the encoders inside it"
        )
    modules = stored("modules.json") or []
    if not isinstance(modules, list) or not all(
        isinstance(module, dict) and isinstance(module.get("type"), str) and isinstance(module.get("path"), str) for module in modules
    ):
        raise UserError(f"model {str(name)!r} has a damaged modules.json: save the model again")
    if outside := [module["path"] for module in modules if not lies_inside(Path(path), module["path"])]:
        raise UserError(
            f"model {str(name)!r} names the folder {outside[0]!r} in modules.json, which is outside the model folder: save the model again"
        )
    transformer, pooling, inner, is_static = path, None, "", False
    include_prompt, token_weights, layer_mix = True, None, None
    after: list[tuple[str, str]] = []  # modules after pooling: kind and path
    for position, module in enumerate(modules):
        package, _, kind = str(module["type"]).rpartition(".")
        if package.partition(".")[0] != "sentence_transformers":
            raise UserError(
                f"model {str(name)!r} has the module {module['type']}, which is not part of sentence-transformers: use the code that it"
                " comes with"
            )
        if kind in ("Transformer", "StaticEmbedding") and position == 0:
            inner = _inside(module["path"], "")
            if kind == "StaticEmbedding":
                is_static, pooling = True, "mean"
        elif kind == "WordWeights" and pooling is None and token_weights is None:
            token_weights = _token_weights(
                stored(_inside(module["path"], "config.json")) or stored(_inside(module["path"], "wordweights_config.json")), name
            )
        elif kind == "WeightedLayerPooling" and pooling is None and token_weights is None and layer_mix is None:
            # sentence-transformers leaves the module out where the transformer does not give all layers
            if stored_object(f"{inner}config.json").get("output_hidden_states") is True:
                layer_mix = _layer_mix(_stored_file(path, _inside(module["path"], "model.safetensors")), name)
        elif kind == "Pooling" and pooling is None:
            of_pooling = stored_object(_inside(module["path"], "config.json"))
            pooling, include_prompt = _pooling(of_pooling, name), of_pooling.get("include_prompt") is not False
        elif kind in _AFTER_POOLING and pooling is not None:
            after.append((kind, module["path"]))
        else:
            where = "begins with a" if position == 0 else "has a"
            what = "module" if position == 0 else "layer after its encoder"
            raise UserError(
                f"model {str(name)!r} {where} {kind} {what}, which tain does not support{' in this place' if kind in _KNOWN else ''}:"
                " use sentence-transformers for it"
            )
    _refuse_other_inputs(after, path, name)
    normalize = False
    while after and after[-1][0] in ("Normalize", "Dropout"):  # dropout does nothing in encoding
        normalize = after.pop()[0] == "Normalize" or normalize
    correction = _after_pooling([each for each in after if each[0] != "Dropout"], path, name)
    if record.get("correction", {}).get("method") == "languages":
        correction = read_by_language(_stored_file(path, LANGUAGE_FILE), name=str(name))
    task = None if pooling is None else "feature-extraction"
    settings = TransformerSettings() if is_static else read_settings(stored, inner, task=task, name=str(name))
    _ = stored_object(f"{inner}tokenizer_config.json")  # a damaged one is refused here
    about = checked_prompts(stored("config_sentence_transformers.json"), name)
    if Path(path).is_dir():
        transformer = str(Path(path) / inner)
        refuse_pickles(transformer)
    elif inner and not is_static:
        raise UserError(f"model {str(name)!r} stores its encoder in the subfolder {inner!r}: download it and give the local folder")
    return Layout(
        transformer,
        pooling,
        settings.max_tokens,
        normalize,
        record,
        correction,
        about,
        include_prompt,
        token_weights,
        layer_mix,
        is_static,
        settings.lower_cases,
        subfolder="" if Path(path).is_dir() else inner,
    )


def _module_config(path: str, folder: str, name: str | Path) -> dict[str, Any]:
    file = _inside(folder, "config.json")
    return checked_object(
        read_stored_json(path, file), {}, damaged=f"model {str(name)!r} has a damaged {file}", advice="save the model again"
    )


def _dense_config(path: str, folder: str, name: str | Path) -> dict[str, Any]:
    found = _module_config(path, folder, name)
    if not found:
        raise UserError(f"model {str(name)!r} has a Dense layer without {_inside(folder, 'config.json')}: copy the whole folder again")
    return found


def _inside(folder: str, file: str) -> str:
    """Path of a module's file within the model's folder; a module in the folder itself has the path ``""``."""
    return f"{folder}/{file}" if folder else file


def _refuse_other_inputs(layers: list[tuple[str, str]], path: str, name: str | Path) -> None:
    """Refuse modules after pooling that work on something else than the pooled vector.

    Raises:
        UserError: There is one.
    """
    for kind, folder in layers:
        found = _module_config(path, folder, name)
        for key in ("module_input_name", "module_output_name"):
            if found.get(key) not in (None, "sentence_embedding"):
                raise UserError(
                    f"model {str(name)!r} has a {kind} layer with the {key} {found[key]}, which tain does not support: use"
                    " sentence-transformers for it"
                )


def _after_pooling(layers: list[tuple[str, str]], path: str, name: str | Path) -> "LinearCorrection | LayerStack | None":
    """Read the modules after pooling, without those that scale to length 1 at the end."""
    if not layers:
        return None

    def config(folder: str) -> dict[str, Any]:
        return _dense_config(path, folder, name)

    def weights(kind: str, folder: str) -> dict[str, np.ndarray]:
        return read_tensors(_stored_file(path, _inside(folder, "model.safetensors")), f"the weights of its {kind} layer", str(name))

    only = layers[0][1] if [kind for kind, _ in layers] == ["Dense"] else None
    if only is not None and is_linear(config(only)):
        return read_linear(config(only), _stored_file(path, _inside(only, "model.safetensors")), name=str(name))
    from tain.models.layers import LayerStack, Unit, read_dense, read_layer_norm

    made: list[Any] = []
    for kind, folder in layers:
        if kind == "Dense":
            made.append(read_dense(config(folder), weights(kind, folder), name=str(name)))
        else:
            made.append(Unit() if kind == "Normalize" else read_layer_norm(weights(kind, folder), name=str(name)))
    return LayerStack(made, name=str(name))


def checked_prompts(of_whole: Any, name: str | Path) -> dict[str, Any]:
    """Check the prompts and the dimension in a ``config_sentence_transformers.json``.

    Raises:
        UserError: The file is damaged, or the default prompt does not exist.
    """
    damaged = f"model {str(name)!r} has a damaged config_sentence_transformers.json: save the model again"
    if not isinstance(of_whole, dict):
        raise UserError(damaged)
    prompts, default = of_whole.get("prompts") or {}, of_whole.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(each, str) for pair in prompts.items() for each in pair):
        raise UserError(damaged)
    kept = of_whole.get("truncate_dim")
    if kept is not None and (not isinstance(kept, int) or isinstance(kept, bool) or kept < 1):
        raise UserError(damaged)
    if not isinstance(default, str | None):
        raise UserError(damaged)
    if default and default not in prompts:
        raise UserError(f"model {str(name)!r} has the default prompt {default!r}, which is not among its prompts: save the model again")
    return of_whole


def read_prompts(folder: Path, *, name: str) -> dict[str, Any]:
    """Read ``config_sentence_transformers.json`` of a local folder; empty if there is none.

    Raises:
        UserError: As ``checked_prompts``.
    """
    return checked_prompts(_read_json(folder / "config_sentence_transformers.json"), name)


def read_static(stored: Layout, name: str | Path) -> tuple[np.ndarray, Path]:
    """Read the table of static token vectors, and the path of their tokenizer.

    Args:
        stored: The folder's layout.
        name: The model's name, for messages.

    Raises:
        UserError: One of them is missing or damaged.
    """
    tensors = read_tensors(_stored_file(stored.path, f"{stored.subfolder}model.safetensors"), "its token vectors", str(name))
    table = tensors["embedding.weight"] if "embedding.weight" in tensors else _of_model2vec(tensors, str(name))
    if table.ndim != 2 or not len(table):
        raise UserError(f"model {str(name)!r} has static token vectors that are no table: save the model again")
    tokenizer = _stored_file(stored.path, f"{stored.subfolder}tokenizer.json")
    if tokenizer is None or not tokenizer.is_file():
        raise UserError(f"model {str(name)!r} has no tokenizer.json: copy the whole folder again")
    return table, tokenizer


def _of_model2vec(tensors: dict[str, np.ndarray], name: str) -> np.ndarray:
    """The table of a model2vec file: row ``mapping[token]`` of ``embeddings``, times ``weights[token]``; the last two may be missing.

    Raises:
        UserError: A tensor is missing or does not fit the others.
    """
    table, rows, weights = (tensors.get(key) for key in ("embeddings", "mapping", "weights"))
    if table is None:
        raise UserError(
            f"model {name!r} has static token vectors without embedding.weight (or model2vec's embeddings): save the model again"
        )
    damaged = UserError(f"model {name!r} has a mapping or weights of tokens that do not fit its embeddings: save the model again")
    if rows is not None:
        if rows.ndim != 1 or (rows < 0).any() or (rows >= len(table)).any():
            raise damaged
        table = table[rows.astype(np.int64)]
    if weights is not None:
        if table.ndim != 2 or weights.shape != (len(table),):
            raise damaged
        table = table * weights[:, None]
    return table


def refuse_default_prompt(of_whole: Any, name: str | Path) -> None:
    """Refuse a default prompt, which sentence-transformers puts before every text.

    Args:
        of_whole: The folder's ``config_sentence_transformers.json``.
        name: The model's name, for messages.

    Raises:
        UserError: There is one, or the file is damaged.
    """
    if not isinstance(of_whole, dict):
        raise UserError(f"model {str(name)!r} has a damaged config_sentence_transformers.json: save the model again")
    prompts, default = of_whole.get("prompts") or {}, of_whole.get("default_prompt_name")
    if default and prompts.get(default):
        raise UserError(
            f"model {str(name)!r} prepends the prompt {prompts[default]!r} to every text, which tain does not do: set its default_prompt_name to null"
            " and add the prompt to your texts"
        )


def write_layout(
    folder: Path,
    *,
    pooling: str,
    dim: int,
    max_tokens: int,
    normalize: bool,
    record: dict[str, Any],
    card: str,
    correction: "LinearCorrection | LanguageCorrection | LayerStack | None" = None,
    similarity: Literal["cosine", "dot"] | None = None,
    kept: dict[str, Any] | None = None,
    include_prompt: bool = True,
    token_weights: np.ndarray | None = None,
    vocabulary: Sequence[str] = (),
    layer_mix: tuple[int, np.ndarray] | None = None,
    is_static: bool = False,
) -> None:
    """Write all files of a saved encoder except weights and tokenizer.

    Args:
        folder: An existing folder that holds, or will hold, what transformers saves.
        pooling: One of ``encoders.pooling.MODES``, or several joined by ``+``; sentence-transformers has no mean over padding.
        dim: Dimension of a token vector.
        max_tokens: Length limit, special tokens included.
        normalize: Scale vectors to length 1.
        record: Content of ``tain.json`` besides format and versions: kind, config, base model, seeds, figures.
        card: The model card, Markdown.
        correction: Correction after pooling. A linear one becomes a Dense layer, which sentence-transformers applies too; a per-language
            one becomes a separate file, which sentence-transformers ignores, so ``record`` must mention it.
        similarity: Similarity function to store; None keeps the one in ``kept``, or stores cosine.
        kept: Entries of ``config_sentence_transformers.json`` to keep, such as prompts.
        include_prompt: Whether sentence-transformers includes prompt tokens in the mean.
        token_weights: Weight per token id; stored as a WordWeights module, which sentence-transformers applies too.
        vocabulary: Token per id; required with ``token_weights``.
        layer_mix: First layer, and the weights from it on, of a WeightedLayerPooling module.
        is_static: The folder holds static token vectors, which need no pooling module.
    """
    linear = isinstance(correction, LinearCorrection)
    stacked = [] if correction is None or linear or isinstance(correction, LanguageCorrection) else correction.kinds()
    before = [*(["WeightedLayerPooling"] if layer_mix is not None else []), *(["WordWeights"] if token_weights is not None else [])]
    pools = [] if is_static else [*before, "Pooling"]
    kinds = [*pools, *stacked, *(["Dense"] if linear else []), *(["Normalize"] if normalize else [])]
    first = "StaticEmbedding" if is_static else "Transformer"
    modules = [("", first), *((f"{position}_{kind}", kind) for position, kind in enumerate(kinds, start=1))]
    _write_json(
        folder / "modules.json",
        [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(modules)
        ],
    )
    for path, _ in modules[1:]:
        (folder / path).mkdir(exist_ok=True)
    folders = [folder / path for path, _ in modules[1:]]
    paths = {kind: place for place, (_, kind) in zip(folders, modules[1:], strict=True)}
    if token_weights is not None:
        _write_token_weights(paths["WordWeights"], token_weights, vocabulary)
    if layer_mix is not None:
        start, weights = layer_mix
        config = {"word_embedding_dimension": dim, "layer_start": start, "num_hidden_layers": start + len(weights) - 1}
        _write_json(paths["WeightedLayerPooling"] / "config.json", config)
        save_file({"layer_weights": np.asarray(weights, dtype=np.float32)}, paths["WeightedLayerPooling"] / "model.safetensors")
    if isinstance(correction, LinearCorrection):
        correction.save(paths["Dense"])
    elif isinstance(correction, LanguageCorrection):
        correction.save(folder)
    elif correction is not None:
        correction.save(folders[len(pools) : len(pools) + len(stacked)])
    if not is_static:
        _write_json(paths["Pooling"] / "config.json", _pooling_config(pooling, dim, include_prompt=include_prompt))
    _write_json(folder / SETTINGS_FILES[0], {"max_seq_length": max_tokens, "do_lower_case": False})
    _write_similarity(folder, similarity, kept)
    write_record(folder, record)
    (folder / "README.md").write_text(card, encoding="utf-8")


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write ``tain.json``: the given record plus format and versions."""
    _write_json(folder / "tain.json", {"format": FORMAT, **record, "versions": versions()})


def read_record(name: str | Path) -> dict[str, Any]:
    """Read a model's ``tain.json``; empty if it has none or is not a local folder.

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
    """Make two saved encoders below ``folder`` loadable as one two-tower model by sentence-transformers (5 and later).

    Args:
        folder: An existing folder.
        query: Subfolder that encodes queries (``encode_query``).
        document: Subfolder that encodes documents (``encode_document``).
        kept: Entries of ``config_sentence_transformers.json`` to keep, such as prompts.
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


def _write_similarity(folder: Path, similarity: str | None, kept: dict[str, Any] | None = None) -> None:
    if similarity is None:
        # whoever saves the same kind of vectors again expects the comparison that their folder asked for; training by another one names it
        similarity = (kept or {}).get("similarity_fn_name") or "cosine"
    found = versions()
    written_for = {"sentence_transformers": "2.2.2", "transformers": found.get("transformers"), "pytorch": found.get("torch")}
    _write_json(
        folder / "config_sentence_transformers.json", {**(kept or {}), "__version__": written_for, "similarity_fn_name": similarity}
    )


def _write_token_weights(folder: Path, weights: np.ndarray, vocabulary: Sequence[str]) -> None:
    """Write a WordWeights module of sentence-transformers: weights as a tensor, and per token for older versions."""
    if len(vocabulary) != len(weights):
        raise ShapeError(f"each token needs one weight, got {len(weights)} weights and {len(vocabulary)} tokens")
    by_token = {token: round(float(weight), 7) for token, weight in zip(vocabulary, weights, strict=True)}
    config = {"vocab": list(vocabulary), "word_weights": by_token, "unknown_word_weight": 1}
    for name in ("config.json", "wordweights_config.json"):  # file names of versions from 5 on, and of earlier ones
        (folder / name).write_text(json.dumps(config, ensure_ascii=False) + "\n", encoding="utf-8")
    save_file({"emb_layer.weight": np.asarray(list(by_token.values()), dtype=np.float32)[:, None]}, folder / "model.safetensors")


def _token_weights(config: Any, name: str | Path) -> np.ndarray:
    """Read the weight per token id from a WordWeights config, with the same rule as sentence-transformers."""
    is_whole = isinstance(config, dict) and isinstance(config.get("vocab"), list) and isinstance(config.get("word_weights"), dict)
    if not is_whole:
        raise UserError(f"model {str(name)!r} has token weights without vocab and word_weights: save the model again")
    given, otherwise = config["word_weights"], config.get("unknown_word_weight", 1)
    try:
        weights = np.array([given.get(token, given.get(token.lower(), otherwise)) for token in config["vocab"]], dtype=np.float32)
    except (TypeError, ValueError, AttributeError):
        raise UserError(f"model {str(name)!r} has token weights that are not numbers: save the model again") from None
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise UserError(f"model {str(name)!r} has token weights below 0, or not finite: save the model again")
    return weights


def _layer_mix(file: Path | None, name: str | Path) -> np.ndarray:
    """Read the weights of a WeightedLayerPooling module."""
    weights = read_tensors(file, "the weights of its WeightedLayerPooling", str(name)).get("layer_weights")
    if weights is None or weights.ndim != 1 or not len(weights) or abs(float(weights.sum())) < 1e-12:
        raise UserError(f"model {str(name)!r} has a WeightedLayerPooling layer without layer_weights: save the model again")
    return weights


def _pooling(config: dict[str, Any], name: str | Path) -> str:
    """Read a Pooling config of any version of sentence-transformers; several modes are joined by ``+``."""
    stored = config.get("pooling_mode")
    if stored is None:
        modes = [mode for key, mode in _POOLING_KEYS.items() if config.get(key)]
        unknown = [key for key, on in config.items() if key.startswith("pooling_mode_") and on and key not in _POOLING_KEYS]
        if not modes and not unknown and config:
            modes = ["mean"]  # as sentence-transformers takes it
    else:
        modes, unknown = list(stored) if isinstance(stored, list | tuple) else [stored], []
    if unknown or not modes or not all(isinstance(mode, str) and mode in _POOLING_KEYS.values() for mode in modes):
        raise UserError(
            f"model {str(name)!r} pools by {unknown or stored}, which tain does not support: give one of {', '.join(_POOLING_KEYS.values())}"
        )
    return "+".join(modes)


def _pooling_config(pooling: str, dim: int, *, include_prompt: bool) -> dict[str, Any]:
    """A Pooling config in the keys that all versions of sentence-transformers read, as far as they can say it."""
    modes = ["mean" if pooling == "mean-with-padding" else mode for mode in pooling.split("+")]
    if modes != [mode for mode in _POOLING_KEYS.values() if mode in modes]:  # in an order that only versions from 5.7 on have
        return {"embedding_dimension": dim, "pooling_mode": modes, "include_prompt": include_prompt}
    keys = {key: mode in modes for key, mode in _POOLING_KEYS.items() if key not in _NEW_POOLING_KEYS or mode in modes}
    return {"word_embedding_dimension": dim, **keys, "include_prompt": include_prompt}


def read_stored_json(path: str, file: str) -> Any:
    """Read a JSON file of a local folder or hub name; empty if it does not exist.

    Raises:
        UserError: It is damaged.
    """
    return _read_json(_stored_file(path, file))


def _stored_file(path: str, file: str) -> Path | None:
    """Path of a model's file: in its local folder, or in the hub's cache, downloaded if the hub can be reached."""
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
        return None  # the model does not exist; loading its weights reports the reason
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

"""Export an encoder: one ONNX graph from token ids to the finished vector, checked against torch before anything is visible."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from jaxtyping import Float32

from tain.encoders.static import StaticTokens
from tain.evaluation.report import evaluate
from tain.exported.encoder import ExportedEncoder
from tain.exported.folder import FLOAT_FILE, INT8_FILES, Export, file_digest
from tain.exported.rankers import HEAD_FILE, load_exported_ranker
from tain.foundation.errors import UserError
from tain.foundation.files import refuse_existing, whole_folder
from tain.foundation.progress import Progress
from tain.models.correction import LanguageCorrection, LinearCorrection
from tain.models.embedder import Embedder
from tain.models.loading import kind_of
from tain.models.rankers import DualRanker, Ranker
from tain.models.saved import locate, read_record
from tain.recipes.export.check import Int8Agreement, check_float32, int8_agreement
from tain.recipes.export.config import ExportConfig
from tain.recipes.export.graph import VectorGraph, traced
from tain.recipes.export.pairs import check_dual, refuse_sparse_attention, refuse_without_fast_tokenizer, write_pairs
from tain.recipes.export.quantise import product_nodes, quantised, worst_products
from tain.recipes.export.texts import built_in_texts
from tain.recipes.shared.settings import resolve_config
from tain.text.collections import list_texts

_RESAMPLES = 200  # of intervals that are not shown
_MOST_TEXTS = 1000  # that the check reads


@dataclass(frozen=True)
class ExportedModel:
    """Result of an export.

    Attributes:
        folder: Where the model is.
        sizes: Bytes of each graph file.
        check: What was measured: differences of float32, agreement of int8, products left in float32.
        config: The settings.
    """

    folder: Path
    sizes: dict[str, int]
    check: dict[str, Any]
    config: ExportConfig

    def to_dict(self) -> dict[str, Any]:
        """Give everything for JSON."""
        return {"folder": str(self.folder), "bytes": self.sizes, "check": self.check}


def export(
    model: str | Path,
    output: str | Path,
    *,
    texts: Iterable[str] | None = None,
    config: ExportConfig | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | bool | None = None,
    **settings: Any,
) -> ExportedModel:
    """Write a model's folder with its ONNX graphs, after comparing them with torch.

    The folder is still one of sentence-transformers and of tain: torch reads it as before. ``onnx/model.onnx`` takes ``input_ids`` and
    ``attention_mask`` (and ``token_type_ids`` where the model has segments) and gives ``last_hidden_state`` and ``sentence_embedding``.

    Args:
        model: A folder, a hub name, or ``tain-mini``.
        output: The new folder.
        texts: Texts to check on, preferably like the texts that you will encode; default: built-in ones in many languages.
        config: All settings at once; or give single ones by name.
        overwrite: Replace ``output`` if it exists.
        trust_remote_code: Allow the model to run Python code from its folder.
        progress: ``False`` shows nothing; ``None`` (default) shows a bar on a terminal or in a notebook; or a ``Progress``.
        **settings: Fields of ``ExportConfig``.

    Raises:
        UserError: The model cannot be exported, or a graph does not agree with it; nothing is written then.

    Examples:
        >>> import tain
        >>> result = tain.export("tain-mini", "exported")  # doctest: +SKIP
        >>> tain.load("exported").encode("one text").shape  # doctest: +SKIP
        (384,)
    """
    progress = Progress.resolve(progress)
    config = resolve_config(ExportConfig, "export", config, settings)
    output = Path(output)
    refuse_existing(output, overwrite=overwrite, is_folder=True, inputs=[model, config.sts])
    checked = _checked_texts(texts)
    if _is_ranker(model):
        return _export_ranker(model, output, checked, config, overwrite=overwrite, trust_remote_code=trust_remote_code, progress=progress)
    embedder = _loaded(model, config, trust_remote_code=trust_remote_code)
    reference = embedder.encode(checked, prompt="")
    with whole_folder(output, overwrite=overwrite, was_free=True) as folder:
        embedder.save(folder, record=_record(embedder), card=_card(model, f"{embedder.dim} numbers"))
        made = write_encoder(embedder, folder, checked, reference, config=config, progress=progress)
        check = made.check | _sts(folder, config, progress)
        replace(made, check=check).write(folder)
        sizes = _sizes(folder)
    return ExportedModel(output, sizes, check, config)


def _is_ranker(model: str | Path) -> bool:
    return read_record(model).get("kind") == "ranker" or kind_of(locate(model)).head == "cross-encoder"


def _export_ranker(
    model: str | Path, output: Path, texts: list[str], config: ExportConfig, *, overwrite: bool, trust_remote_code: bool, progress: Progress
) -> ExportedModel:
    """Export the towers of a bi- or poly-encoder, or a cross-encoder, and compare scores with torch."""
    wrong = {"language": config.language, "pooling": config.pooling, "max_tokens": config.max_tokens, "sts": config.sts}
    if given := [name for name, value in wrong.items() if value is not None]:
        raise UserError(f"{given[0]} is for encoders, but model {str(model)!r} is a ranker, which has its own: leave it out")
    ranker = Ranker.load(model, device="cpu", dtype="float32", trust_remote_code=trust_remote_code)
    kept = {name: value for name, value in ranker.record.items() if name not in ("format", "versions", "kind", "ranker")}
    with whole_folder(output, overwrite=overwrite, was_free=True) as folder:
        ranker.save(folder, record={**kept, "base_model": kept.get("base_model", str(model))}, card=_card(model, "vectors or scores"))
        if isinstance(ranker, DualRanker):
            towers: dict[str, Any] = {}
            for name, tower, place in _tower_folders(ranker, folder):
                made = write_encoder(tower, place, texts, tower.encode(texts, prompt=""), config=config, progress=progress)
                replace(made, pair={"head": _digest(folder, HEAD_FILE)}).write(place)
                towers[name] = made.check
            check = check_dual(ranker, load_exported_ranker(folder), texts) | {"towers": towers}
        else:
            check = write_pairs(ranker, folder, texts, config=config, progress=progress)
        sizes = _sizes(folder)
    return ExportedModel(output, sizes, check, config)


def _tower_folders(ranker: DualRanker, folder: Path) -> list[tuple[str, Embedder, Path]]:
    """Name, encoder and folder of each tower."""
    if not ranker.is_shared:
        return [("context", ranker.context, folder / "context"), ("candidate", ranker.candidate, folder / "candidate")]
    return [("shared", ranker.context, folder if ranker.type == "bi" else folder / "encoder")]


def _sts(folder: Path, config: ExportConfig, progress: Progress) -> dict[str, Any]:
    """Mean STS of each graph and what int8 loses, where the data is given."""
    if config.sts is None:
        return {}
    loaded = [ExportedEncoder.load(folder, dtype=dtype) for dtype in (("float32", "int8") if config.int8 else ("float32",))]
    for encoder in loaded:
        encoder.name = encoder.dtype
    report = evaluate(loaded, ("sts",), config.sts, resamples=_RESAMPLES, progress=progress)
    means = [figure.value for figure in report.headline()[1].figures]
    found = dict(zip((encoder.dtype for encoder in loaded), means, strict=True))
    return {"sts": found | ({"points_lost": means[0] - means[1]} if config.int8 else {})}


def _sizes(folder: Path) -> dict[str, int]:
    return {str(file.relative_to(folder)): file.stat().st_size for file in sorted(folder.rglob("onnx/*.onnx"))}


def write_encoder(
    embedder: Embedder,
    folder: Path,
    texts: list[str],
    reference: Float32[np.ndarray, "texts dim"],
    *,
    config: ExportConfig,
    progress: Progress,
) -> Export:
    """Write and check the graphs of an encoder that was saved in ``folder``.

    Args:
        embedder: In torch, float32.
        folder: Holds what ``Embedder.save`` wrote.
        texts: To check on.
        reference: The embedder's vectors of them.
        config: Settings.
        progress: Shows what is done.

    Raises:
        UserError: A graph cannot be made, or does not agree.
    """
    encoder, tokenizer = embedder.encoder, embedder.tokenizer
    refuse_without_fast_tokenizer(folder, embedder.name)
    if encoder.segment_template is not None:
        raise UserError(
            f"model {embedder.name!r} has a tokenizer with token types of its own, which tain export does not support: keep it in torch"
        )
    longest = encoder.full_attention_tokens
    refuse_sparse_attention(longest, max_tokens=embedder.max_tokens, name=embedder.name, advice=f"give --max-tokens {longest}")
    assert not isinstance(embedder.correction, LanguageCorrection)
    progress.note("tracing the model")
    graph = VectorGraph(
        encoder.model,
        pooling=embedder.pooling,
        token_weights=encoder.token_weights,
        correction=embedder.correction,
        normalize=embedder.normalize,
    )
    outputs = ["last_hidden_state", "sentence_embedding"]
    vocabulary = int(encoder.model.config.vocab_size)
    exact = traced(
        graph, encoder.model.config, outputs=outputs, has_segments=encoder.has_segments, vocabulary=vocabulary, name=embedder.name
    )
    (folder / "onnx").mkdir()
    _write(exact, folder / FLOAT_FILE)
    low, high = (np.percentile(reference, each, axis=0) for each in (0.5, 99.5))
    made = Export(
        kind="encoder",
        graphs={"float32": FLOAT_FILE},
        digests={file: _digest(folder, file) for file in (FLOAT_FILE, "tokenizer.json", "model.safetensors") if (folder / file).is_file()},
        max_tokens=embedder.max_tokens,
        dim=embedder.dim,
        normalize=embedder.normalize,
        pads=encoder.pads,
        pad_id=int(tokenizer.pad_token_id or 0),
        unknown_id=tokenizer.unk_token_id,
        pooling=embedder.pooling,
        side=tokenizer.truncation_side,
        include_prompt=embedder.include_prompt,
        int8_ranges={"low": [round(float(each), 7) for each in low], "high": [round(float(each), 7) for each in high]},
    )
    made.write(folder)
    progress.note(f"comparing float32 with torch on {len(texts):,} texts")
    exported = ExportedEncoder.load(folder)
    check: dict[str, Any] = {"float32": check_float32(embedder, exported, texts, reference=reference, seed=config.seed)}
    if not made.pads:
        progress.warn(
            f"padding changes the vectors of {type(encoder.model).__name__}: tain runs texts of one length together, other programs that read"
            " the graph must do so too"
        )
    made = replace(made, check=check)
    if config.int8:
        made = _with_int8(exact, made, folder, texts, reference, config=config, name=embedder.name, progress=progress)
    made.write(folder)
    return made


def _with_int8(
    exact: onnx.ModelProto,
    made: Export,
    folder: Path,
    texts: list[str],
    reference: Float32[np.ndarray, "texts dim"],
    *,
    config: ExportConfig,
    name: str,
    progress: Progress,
) -> Export:
    """Quantise, and leave more and more of the worst products in float32 until the vectors agree.

    Raises:
        UserError: They do not agree even so.
    """
    excluded: list[str] = []
    worst: list[str] = []
    total = len(product_nodes(exact))
    while True:
        _write(quantised(exact, excluded=excluded), folder / INT8_FILES[0])
        made = replace(
            made, graphs={**made.graphs, "int8": INT8_FILES[0]}, digests={**made.digests, INT8_FILES[0]: _digest(folder, INT8_FILES[0])}
        )
        made.write(folder)
        exported = ExportedEncoder.load(folder, dtype="int8")
        agreement = int8_agreement(exported.encode(texts, prompt=""), reference)
        progress.note(_agreement_text(agreement, excluded, total))
        if agreement.mean_cosine >= config.min_cosine:
            break
        if 2 * len(excluded) >= total:
            raise UserError(
                f"model {name!r} loses too much in int8: mean cosine {agreement.mean_cosine:.4f} to float32 with {len(excluded)} of {total}"
                f" products left in float32, below min_cosine {config.min_cosine:g}: export with --no-int8, or give a lower --min-cosine"
            )
        worst = worst or worst_products(exact, exported.tokenizer, texts, max_tokens=made.max_tokens, pad_id=made.pad_id)
        excluded = worst[: max(2 * len(excluded), 1)]
    (folder / INT8_FILES[1]).write_bytes((folder / INT8_FILES[0]).read_bytes())
    digests = {**made.digests, INT8_FILES[1]: made.digests[INT8_FILES[0]]}
    measured = {**asdict(agreement), "products": total, "left_in_float32": excluded}
    return replace(made, digests=digests, check={**made.check, "int8": measured})


def _agreement_text(agreement: Int8Agreement, excluded: list[str], total: int) -> str:
    left = f", {len(excluded)} of {total} products left in float32" if excluded else ""
    return (
        f"int8 against float32: mean cosine {agreement.mean_cosine:.4f}, worst {agreement.worst_cosine:.4f}, rank correlation of"
        f" similarities {agreement.rank_correlation:.4f}{left}"
    )


def _checked_texts(texts: Iterable[str] | None) -> list[str]:
    """The user's texts, as many as the check reads, or built-in ones; always some of other lengths and scripts."""
    given = list_texts(texts)[:_MOST_TEXTS] if texts is not None else []
    if texts is not None and len(given) < 2:
        raise UserError(f"{len(given)} texts are given to check on: give 2 or more, or leave them out")
    return given or built_in_texts()


def _loaded(model: str | Path, config: ExportConfig, *, trust_remote_code: bool) -> Embedder:
    """Load the encoder in float32 on the CPU, with the correction of one language as a matrix."""
    embedder = Embedder.load(
        model, device="cpu", dtype="float32", pooling=config.pooling, max_tokens=config.max_tokens, trust_remote_code=trust_remote_code
    )
    if embedder.encoder.layer_mix is not None or isinstance(embedder.encoder, StaticTokens):
        what = "mixes several layers (WeightedLayerPooling)" if embedder.encoder.layer_mix is not None else "has static token vectors"
        raise UserError(f"model {str(model)!r} {what}, which tain export does not support: keep it in torch")
    correction = embedder.correction
    if isinstance(correction, LanguageCorrection):
        if config.language is None:
            known = ", ".join(correction.languages)
            raise UserError(
                f"model {str(model)!r} corrects its vectors by language, and a graph holds one correction: give --language, one of {known}"
            )
        correction.refuse_unknown(config.language, name=str(model))
        directions = correction.directions[config.language]
        matrix = np.eye(directions.shape[1], dtype=np.float32) - directions.T @ directions
        embedder.correction = LinearCorrection(matrix.astype(np.float32), np.zeros(len(matrix), dtype=np.float32))
    elif config.language is not None:
        raise UserError(f"language is {config.language!r}, but model {str(model)!r} treats all texts alike: leave it out")
    return embedder


def _record(embedder: Embedder) -> dict[str, Any]:
    kept = {name: value for name, value in embedder.record.items() if name not in ("format", "versions", "correction", "ranker", "kind")}
    return {**kept, "kind": "encoder", "base_model": kept.get("base_model", embedder.name)}


def _card(model: str | Path, gives: str) -> str:
    """The model's own card with a line about the graphs, or that line alone."""
    own = Path(locate(model)) / "README.md"
    before = own.read_text(encoding="utf-8").rstrip() + "\n\n" if own.is_file() else f"# {Path(str(model)).name}\n\n"
    return (
        f"{before}## ONNX\n\n`onnx/model.onnx` computes {gives} from token ids, in one graph. Written by `tain export`, which compared it with"
        " the torch model; `onnx/export.json` has the figures.\n"
    )


def _write(model: onnx.ModelProto, file: Path) -> None:
    file.write_bytes(model.SerializeToString())


def _digest(folder: Path, file: str) -> str:
    found = file_digest(folder / file)
    assert found is not None
    return found

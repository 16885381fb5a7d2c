"""``tain export``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tain.cli import flags
from tain.cli.settings import build_config, flags_of
from tain.foundation.errors import UserError
from tain.recipes.export.config import ExportConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tain.recipes.export.recipe import ExportedModel

_Flags: Any = flags_of(ExportConfig)
_NONE_GIVEN = _Flags()


def export(
    model: str,
    /,
    *,
    output: Annotated[flags.Output, Parameter(help="folder for the model with its graphs")],
    texts: Annotated[
        str | None, Parameter(help="texts to check the graphs on, preferably like the texts that you will encode; default: built-in ones")
    ] = None,
    column: Annotated[str | None, Parameter(help="column of the texts, if --texts is a table")] = None,
    settings: Annotated[Path | None, Parameter(help="TOML file of the settings below; flags win")] = None,
    trust_remote_code: flags.TrustRemoteCode = False,
    overwrite: flags.Overwrite = False,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
    config: Annotated[_Flags, Parameter(name="*")] = _NONE_GIVEN,  # pyright: ignore[reportInvalidTypeForm]
) -> None:
    """Write an encoder or a ranker as ONNX graphs that run without torch, after comparing them with torch.

    tain export tain-mini -o exported

    The folder is still one of sentence-transformers and of tain. It has onnx/model.onnx, from token ids to the finished vector, and an
    int8 graph beside it. tain encode, evaluate, rank score, rank search and serve run it with the base install. Nothing is written unless the float32
    graph equals torch within 1e-4 and the int8 graph keeps --min-cosine.

    Parameters
    ----------
    model
        an encoder or a ranker: a folder, a hub name, or tain-mini
    """
    settled = build_config(ExportConfig, config, file=settings)
    if column is not None and texts is None:
        raise UserError(f"column is {column!r}, a column of --texts, but none are given: give --texts, or leave it out")
    from tain.foundation.files import refuse_existing
    from tain.foundation.progress import Progress
    from tain.models.saved import locate
    from tain.text.readers import read_texts

    refuse_existing(output, overwrite=overwrite, inputs=[model, texts, settled.sts, settings])
    locate(model)
    given = None if texts is None else list(read_texts(texts, column=column))
    progress = Progress.for_terminal(json=json, quiet=quiet)
    from tain.recipes.export.recipe import export as run

    result = run(model, output, texts=given, config=settled, overwrite=overwrite, trust_remote_code=trust_remote_code, progress=progress)
    _show(result, as_json=json)


def _show(result: "ExportedModel", *, as_json: bool) -> None:
    if as_json:
        import json

        print(json.dumps(result.to_dict(), ensure_ascii=False))
        return
    _show_check(result.check)
    for file, size in result.sizes.items():
        print(f"{size / 1e6:8.1f} MB  {file}")
    print(f"saved in {result.folder}")


def _show_check(measured: "Mapping[str, Any]", *, tower: str = "") -> None:
    """One line per measurement; ``tower`` goes before each of a ranker's tower."""
    for graph, check in measured.items():
        if graph == "towers":
            for name, of_tower in check.items():
                _show_check(of_tower, tower=f"{name} tower, ")
        elif graph == "int8" and "correlation_of_scores" in check:
            print(f"int8: correlation of scores {check['correlation_of_scores']:.4f} to float32")
        elif graph == "int8":
            left = f", {len(check['left_in_float32'])} of {check['products']} products left in float32" if check["left_in_float32"] else ""
            agreement = f"mean cosine {check['mean_cosine']:.4f}, worst {check['worst_cosine']:.4f}"
            print(f"{tower}int8: {agreement}, rank correlation of similarities {check['rank_correlation']:.4f} to float32{left}")
        elif graph == "sts":
            lost = f"; int8 loses {check['points_lost']:.2f} points" if "points_lost" in check else ""
            figures = ", ".join(f"{dtype} {check[dtype]:.2f}" for dtype in ("float32", "int8") if dtype in check)
            print(f"sts: {figures} (mean Spearman x 100){lost}")
        else:
            print(f"{tower}{graph}: largest difference to torch {check['largest_difference']:.1e} on {check['texts']:,} texts")

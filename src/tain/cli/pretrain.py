"""``tain pretrain``: train a masked language model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tain.cli import flags
from tain.cli.settings import build_config, flags_of
from tain.cli.sources import TextFiles
from tain.recipes.pretrain.config import PretrainConfig

if TYPE_CHECKING:
    from tain.recipes.pretrain.recipe import Pretrained

_Flags: Any = flags_of(PretrainConfig)
_NONE_GIVEN = _Flags()


def pretrain(
    model: str,
    texts: TextFiles,
    /,
    *,
    output: Annotated[flags.Output, Parameter(help="folder for the model")],
    column: Annotated[str | None, Parameter(help="column of the texts, if TEXTS are tables")] = None,
    document_column: Annotated[
        str | None, Parameter(help="column that identifies the document of each row; default: each row is a document")
    ] = None,
    settings: Annotated[Path | None, Parameter(help="TOML file of the settings below; flags win")] = None,
    overwrite: flags.OverwriteRun = False,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
    config: Annotated[_Flags, Parameter(name="*")] = _NONE_GIVEN,  # pyright: ignore[reportInvalidTypeForm]
) -> None:
    """Train a masked language model on running text, from scratch or continued.

    tain pretrain scratch book.txt -o model --tokens 1e6

    Parameters
    ----------
    model
        scratch for a new model; or a folder, a hub name or tain-mini to continue (then give --optimizer adamw); an encoder without a
        prediction head gets a new one
    """
    settled = build_config(PretrainConfig, config, file=settings)
    from tain.foundation.files import refuse_existing

    refuse_existing(output, overwrite=overwrite, inputs=[settings])  # the recipe refuses the others
    from tain.foundation.progress import Progress
    from tain.recipes.pretrain.recipe import pretrain as run
    from tain.training import distributed

    progress = Progress.for_terminal(json=json, quiet=quiet)
    with distributed.ending_processes():
        result = run(
            model, texts, output, config=settled, column=column, document_column=document_column, overwrite=overwrite, progress=progress
        )
        if distributed.rank() == 0:
            _show(result, as_json=json)


def _show(result: "Pretrained", *, as_json: bool) -> None:
    if as_json:
        import json

        figures = {"tokens": result.tokens, "steps": result.steps, "validation": result.validation}
        figures |= {"held_out": result.held_out, "finished": result.finished}
        print(json.dumps({**figures, "folder": str(result.folder) if result.folder else None}))
        return
    from tain.recipes.pretrain.recipe import shortened

    print(f"{shortened(result.tokens)} tokens in {result.steps:,} steps, training loss {result.losses[-1]:.3f}")
    if result.validation:
        print(f"validation loss {result.validation[-1][1]:.3f}")
    if result.held_out:
        print(", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in result.held_out[-1][1].items()))
    print(f"saved in {result.folder}" if result.finished else "time is up: the checkpoint is saved, continue with --resume")

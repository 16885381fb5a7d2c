"""``tain evaluate --suite mlm``: the loss of masked language models on held-out text."""

from pathlib import Path

from tain.cli.objects import as_object, write_object
from tain.cli.settings import refuse_idle
from tain.foundation.choices import Dtype


def evaluate_mlm(
    models: list[str],
    *,
    suite: tuple[str, ...],
    texts: str | None,
    data: Path | None,
    output: Path | None,
    chart: Path | None,
    overwrite: bool,
    resamples: int,
    seed: int,
    block_tokens: int | None,
    device: str | None,
    dtype: Dtype,
    trust_remote_code: bool,
    idle: dict[str, object],
    json: bool,
    quiet: bool,
) -> None:
    """Measure, print a table or one JSON object, and write the output file. Arguments as in ``evaluate``.

    ``idle`` holds the arguments that have no effect here.
    """
    from tain.evaluation.mlm import masked_losses, validation_files
    from tain.foundation.errors import UserError
    from tain.foundation.files import refuse_existing
    from tain.foundation.progress import Progress
    from tain.models.masked_lm import MaskedPredictor
    from tain.models.saved import locate

    if len(set(suite)) > 1:
        raise UserError(f"suite mlm measures other models than {', '.join(sorted(set(suite) - {'mlm'}))}: run it separately")
    refuse_idle(idle, of="suite mlm")
    if chart is not None:
        raise UserError("suite mlm draws no chart: leave --chart out")
    if (texts is None) == (data is None):
        raise UserError(
            "suite mlm needs texts: give a file with --texts, or a file or a folder with files named valid_* with --data (not both)"
        )
    if output is not None:
        refuse_existing(output, overwrite=overwrite)
    sources = [texts] if texts is not None else validation_files(data) if data is not None and data.is_dir() else [data]
    for model in models:
        locate(model)
    report = masked_losses(
        (MaskedPredictor.load(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code) for model in dict.fromkeys(models)),
        [source for source in sources if source is not None],
        block_tokens=block_tokens,
        resamples=resamples,
        seed=seed,
        progress=Progress.for_terminal(json=json, quiet=quiet),
    )
    if output is not None:
        write_object(report.to_dict(), output, overwrite=overwrite)
    if json:
        print(as_object(report.to_dict()))
        return
    from rich.console import Console

    Console(highlight=False).print(report.as_table())

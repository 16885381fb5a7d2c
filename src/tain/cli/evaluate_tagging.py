"""``tain evaluate --suite tagging``: intent and slot figures of students, classifiers and taggers."""

from pathlib import Path
from typing import Literal

from tain.cli.objects import as_object, write_object
from tain.cli.settings import refuse_idle


def evaluate_tagging(
    models: list[str],
    *,
    suite: tuple[str, ...],
    data: Path | None,
    split: Literal["test", "dev"],
    typos: tuple[float, ...],
    unknown_labels: Literal["refuse", "count-as-wrong"],
    output: Path | None,
    overwrite: bool,
    resamples: int,
    seed: int,
    device: str | None,
    trust_remote_code: bool,
    idle: dict[str, object],
    json: bool,
    quiet: bool,
) -> None:
    """Measure, print a table or one JSON object, and write the output file. Arguments as in ``evaluate``.

    ``idle`` holds the arguments that have no effect here.
    """
    from tain.cli.models import find_labeller, load_labeller
    from tain.evaluation.tagging import measure_tagging
    from tain.evaluation.tagging_sets import is_tagging, load_tagging
    from tain.foundation.errors import UserError
    from tain.foundation.files import refuse_existing
    from tain.foundation.progress import Progress

    if others := sorted(name for name in set(suite) if not is_tagging(name)):
        raise UserError(f"suite {suite[0]} measures other models than {', '.join(others)}: run them separately")
    refuse_idle(idle, of=f"suite {suite[0]}")
    if output is not None:
        refuse_existing(output, overwrite=overwrite)
    for model in models:
        find_labeller(model)
    sets, absent = load_tagging(suite, data, part=split)
    report = measure_tagging(
        (load_labeller(model, device=device, trust_remote_code=trust_remote_code) for model in dict.fromkeys(models)),
        sets,
        named=[one.key for one in sets] if data is not None and data.is_file() else _named(suite, [one.key for one in sets]),
        typos=typos or (0.0,),
        unknown_labels=unknown_labels,
        resamples=resamples,
        seed=seed,
        left_out=[f"{key} (no file)" for key in absent],
        progress=Progress.for_terminal(json=json, quiet=quiet),
    )
    if output is not None:
        write_object(report.to_dict(), output, overwrite=overwrite)
    if json:
        print(as_object(report.to_dict()))
        return
    from rich.console import Console

    Console(highlight=False).print(report.as_table())


def _named(suite: tuple[str, ...], keys: list[str]) -> list[str]:
    """The sets that were named, with the languages of xsid listed one by one."""
    return [key for key in keys if key in suite or ("xsid" in suite and key.startswith("xsid_"))]

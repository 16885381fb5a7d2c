"""``tain evaluate``: how good encoders are, side by side, on labelled sets and without labels."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from tain.foundation.choices import Dtype, Pooling

if TYPE_CHECKING:
    import numpy as np

    from tain.evaluation.report import EvaluationReport
    from tain.models.embedder import Embedder


def evaluate(
    models: list[str],
    /,
    *,
    suite: Annotated[
        tuple[str, ...],
        Parameter(
            help="sts, sts17, words, geometry, one set (stsb_dev, simlex999, ...), or a tsv of your own with the columns"
            " sentence1, sentence2, score; repeat the option for several; default: sts",
            negative=(),
            show_default=False,
        ),
    ] = ("sts",),
    data: Annotated[Path | None, Parameter(help="folder with the suites' files (sts/, stsb/, sick/, ...); your own tsv needs none")] = None,
    split: Annotated[Literal["test", "dev"], Parameter(help="which sets a suite stands for; choose settings on dev only")] = "test",
    texts: Annotated[
        str | None, Parameter(help="texts for geometry that the models were not tuned on, one a line; default: STS-B dev's sentences")
    ] = None,
    level: Annotated[Literal["word", "phrase", "sentence"], Parameter(help="what a text is for geometry; words are halved by letters")] = (
        "sentence"
    ),
    output: Annotated[Path | None, Parameter(name=["--output", "-o"], help="write all figures to this JSON file")] = None,
    chart: Annotated[Path | None, Parameter(help="draw the figures into this SVG file")] = None,
    overwrite: Annotated[bool, Parameter(help="replace the JSON or SVG file if it exists", negative=())] = False,
    resamples: Annotated[int, Parameter(help="bootstrap resamples behind each interval; under 200 its ends are rough")] = 1000,
    seed: Annotated[int, Parameter(help="fixes the resamples")] = 13,
    pooling: Annotated[Pooling | None, Parameter(help="how token vectors become one; default: what each model says, else mean")] = None,
    max_tokens: Annotated[
        int | None, Parameter(help="cut texts at this many tokens; default: each model's limit; cut texts are counted")
    ] = None,
    batch_tokens: Annotated[int | None, Parameter(help="tokens encoded at a time; changes speed and memory, never the figures")] = None,
    device: Annotated[str | None, Parameter(help="cpu, cuda or cuda:N; default: a GPU where there is one")] = None,
    dtype: Annotated[Dtype, Parameter(help="number type; auto takes what is fastest here")] = "auto",
    json: Annotated[bool, Parameter(help="results and progress as JSON", negative=())] = False,
    quiet: Annotated[bool, Parameter(help="say nothing but results and warnings", negative=())] = False,
) -> None:
    """Compare encoders on STS, word similarity, your own scored pairs, or without labels.

    tain evaluate tain-mini --suite my_pairs.tsv

    --suite mlm measures masked language models instead: their loss on --texts, or on the valid_* files of --data.

    Every figure has its 95% bootstrap interval; with several models also the difference to the first. A set whose file is
    absent is named and left out of the mean.

    Parameters
    ----------
    models
        folders, hub names or tain-mini; the first is what the others are compared with
    """
    if "mlm" in suite:  # another kind of model and another figure
        from tain.cli.evaluate_mlm import evaluate_mlm

        evaluate_mlm(
            models,
            suite=suite,
            texts=texts,
            data=data,
            output=output,
            chart=chart,
            overwrite=overwrite,
            resamples=resamples,
            seed=seed,
            block_tokens=max_tokens,
            device=device,
            dtype=dtype,
            json=json,
            quiet=quiet,
        )
        return

    from tain.evaluation.report import evaluate as evaluate_encoders
    from tain.foundation.errors import UserError
    from tain.foundation.files import refuse_existing
    from tain.foundation.progress import Progress
    from tain.models.saved import locate

    if batch_tokens is not None and batch_tokens < 1:
        raise UserError(f"batch_tokens is {batch_tokens}, but a batch needs some: give at least 1, or leave it out")
    for target in (output, chart):
        if target is not None:
            refuse_existing(target, overwrite=overwrite)
    for model in models:
        locate(model)  # the last of five models may be the one that is not there
    report = evaluate_encoders(
        (  # loaded when the sets are read: a wrong path is told before torch is imported
            _load(model, pooling=pooling, max_tokens=max_tokens, batch_tokens=batch_tokens, device=device, dtype=dtype) for model in models
        ),
        suite,
        data,
        split=split,
        texts=_read(texts),
        level=level,
        resamples=resamples,
        seed=seed,
        progress=Progress.for_terminal(json=json, quiet=quiet),
    )
    _write(report, output=output, chart=chart, overwrite=overwrite)
    _show(report, as_json=json)


class _Loaded:
    """An embedder with the options of this run, named as the user named it."""

    def __init__(self, embedder: "Embedder", name: str, *, batch_tokens: int | None) -> None:
        self.name = name
        self._embedder = embedder
        self._batch_tokens = batch_tokens

    @property
    def truncated(self) -> int:
        return self._embedder.truncated

    def encode(self, texts: list[str], /) -> "np.ndarray":
        return self._embedder.encode(texts, batch_tokens=self._batch_tokens)


def _load(
    name: str,
    *,
    pooling: Pooling | None,
    max_tokens: int | None,
    batch_tokens: int | None,
    device: str | None,
    dtype: Dtype,
) -> _Loaded:
    from tain.models.embedder import Embedder

    embedder = Embedder.load(name, pooling=pooling, max_tokens=max_tokens, device=device, dtype=dtype)
    return _Loaded(embedder, name, batch_tokens=batch_tokens)


def _read(source: str | None) -> list[str] | None:
    if source is None:
        return None
    from tain.text.readers import read_texts

    return list(read_texts(source))


def _write(report: "EvaluationReport", *, output: Path | None, chart: Path | None, overwrite: bool) -> None:
    from tain.evaluation.chart import as_svg
    from tain.foundation.files import whole_file

    if output is not None:
        with whole_file(output, overwrite=overwrite) as path:
            path.write_text(_as_json(report, indent=2) + "\n", encoding="utf-8")
    if chart is not None:
        with whole_file(chart, overwrite=overwrite) as path:
            path.write_text(as_svg(report), encoding="utf-8")


def _show(report: "EvaluationReport", *, as_json: bool) -> None:
    """Print the table and the finding below it, or everything as one JSON object."""
    if as_json:
        print(_as_json(report))
        return
    from rich.console import Console

    from tain.evaluation.chart import headline_sentence
    from tain.evaluation.table import as_table

    console = Console(highlight=False)
    console.print(as_table(report))
    console.print(f"\n{headline_sentence(report)}.", markup=False)


def _as_json(report: "EvaluationReport", *, indent: int | None = None) -> str:
    import json

    return json.dumps(report.to_dict(), ensure_ascii=False, indent=indent, allow_nan=False)

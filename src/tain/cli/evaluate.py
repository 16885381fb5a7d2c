"""``tain evaluate``: how good encoders are, side by side, on labelled sets and without labels."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    import numpy as np

    from tain.models.embedder import Embedder


def evaluate(
    models: Annotated[list[str], Parameter(help="folders or names of encoders; the first is what the others are compared with")],
    *,
    suite: Annotated[
        tuple[str, ...],
        Parameter(
            help="sts, sts17, words, geometry, one set (stsb_dev, simlex999, ...), or a tsv of your own with the columns"
            " sentence1, sentence2, score; repeat the option for several"
        ),
    ] = ("sts",),
    data: Annotated[Path | None, Parameter(help="folder with the suites' files (sts/, stsb/, sick/, ...); your own tsv needs none")] = None,
    split: Annotated[Literal["test", "dev"], Parameter(help="which sets a suite stands for; choose settings on dev only")] = "test",
    texts: Annotated[
        str | None, Parameter(help="texts for geometry, one a line, that the models were not tuned on; default: STS-B dev's sentences")
    ] = None,
    level: Annotated[Literal["word", "phrase", "sentence"], Parameter(help="what a text is for geometry; words are halved by letters")] = (
        "sentence"
    ),
    output: Annotated[Path | None, Parameter(name=("--output", "-o"), help="write all figures to this JSON file")] = None,
    chart: Annotated[Path | None, Parameter(help="draw the figures into this SVG file")] = None,
    overwrite: Annotated[bool, Parameter(negative="", help="replace the JSON or SVG file where there is one")] = False,
    resamples: Annotated[int, Parameter(help="bootstrap resamples behind each interval; fewer than 200 make its ends rough")] = 1000,
    seed: Annotated[int, Parameter(help="fixes the resamples")] = 13,
    pooling: Annotated[
        Literal["cls", "mean", "mean-with-padding"] | None, Parameter(help="how token vectors become one; default: what the model says")
    ] = None,
    max_tokens: Annotated[
        int | None, Parameter(help="cut texts at this many tokens; default: the model's limit. Cut texts are counted")
    ] = None,
    batch_tokens: Annotated[int | None, Parameter(help="tokens encoded at a time; changes speed and memory, never the figures")] = None,
    device: Annotated[str | None, Parameter(help="cpu, cuda or cuda:N; default: a GPU where there is one")] = None,
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], Parameter(help="number type; auto takes what is fastest here")] = "auto",
    json: Annotated[bool, Parameter(negative="", help="say progress as JSON events")] = False,
    quiet: Annotated[bool, Parameter(negative="", help="say nothing but warnings")] = False,
) -> None:
    """Compare encoders on STS, word similarity, your own scored pairs, or without labels.

    Example: tain evaluate tain-mini --suite my_pairs.tsv

    Every figure has its 95% bootstrap interval; with several models also the difference to the first. A set whose file is
    absent is named and left out of the mean.
    """
    from rich.console import Console

    from tain.evaluation.chart import as_svg, headline_sentence
    from tain.evaluation.report import evaluate as evaluate_encoders
    from tain.evaluation.table import as_table
    from tain.foundation.files import refuse_existing, whole_file
    from tain.foundation.progress import Progress

    for target in (output, chart):
        if target is not None:
            refuse_existing(target, overwrite=overwrite)
    progress = Progress.for_terminal(json=json, quiet=quiet)
    geometry_texts = _texts(texts)
    encoders = (  # loaded when the sets are read: a wrong path is told before torch loads
        _load(name, pooling=pooling, max_tokens=max_tokens, batch_tokens=batch_tokens, device=device, dtype=dtype) for name in models
    )
    report = evaluate_encoders(
        encoders,
        suite,
        data,
        split=split,
        texts=geometry_texts,
        level=level,
        resamples=resamples,
        seed=seed,
        progress=progress,
    )
    progress.close()
    Console().print(as_table(report))
    Console(soft_wrap=True).print(headline_sentence(report) + ".", markup=False, highlight=False)
    if output is not None:
        with whole_file(output, overwrite=overwrite) as path:
            path.write_text(_as_json(report.to_dict()), encoding="utf-8")
    if chart is not None:
        with whole_file(chart, overwrite=overwrite) as path:
            path.write_text(as_svg(report), encoding="utf-8")


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
    pooling: Literal["cls", "mean", "mean-with-padding"] | None,
    max_tokens: int | None,
    batch_tokens: int | None,
    device: str | None,
    dtype: Literal["auto", "float32", "bfloat16"],
) -> _Loaded:
    from tain.foundation.errors import UserError
    from tain.models.embedder import Embedder

    if batch_tokens is not None and batch_tokens < 1:
        raise UserError(f"batch_tokens is {batch_tokens}, but a batch needs some: give at least 1, or leave it out")
    embedder = Embedder.load(name, pooling=pooling, max_tokens=max_tokens, device=device, dtype=dtype)
    return _Loaded(embedder, name, batch_tokens=batch_tokens)


def _texts(source: str | None) -> list[str] | None:
    if source is None:
        return None
    from tain.text.readers import read_texts

    return list(read_texts(source))


def _as_json(report: dict[str, object]) -> str:
    import json

    return json.dumps(report, ensure_ascii=False, indent=2, allow_nan=False) + "\n"

"""``tain evaluate``: compare encoders on labelled sets and without labels."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from tain.cli import flags
from tain.cli.objects import as_object, write_object
from tain.cli.settings import refuse_idle
from tain.foundation.choices import AnyPooling, OutputDtype

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tain.evaluation.forms import InForm
    from tain.evaluation.report import EvaluationReport
    from tain.evaluation.suites.separate import SeparateOptions, SeparateSuite
    from tain.models.text_encoder import TextEncoder


def evaluate(
    models: list[str],
    /,
    *,
    suite: Annotated[
        tuple[str, ...],
        Parameter(
            help="sts, sts17, words, words-crossed (word pairs across languages), transfer (classifiers on frozen vectors), bli (word translation), entity-linking (names of concepts), few-shot (classes from 1, 5 and 20 examples), label-free, tagging,"
            " one set (stsb_dev, simlex999, mr, bli_en-de, ncbi, ...), or a tsv of your own with the columns sentence1, sentence2,"
            " score (similarity) or text, label (few-shot); repeat the option for several; default: sts",
            negative=(),
            show_default=False,
        ),
    ] = ("sts",),
    data: flags.Data = None,
    split: Annotated[Literal["test", "dev"], Parameter(help="which split of each set; choose settings on dev only")] = "test",
    texts: Annotated[
        str | None, Parameter(help="label-free: texts that the models were not tuned on, one per line; default: the sentences of STS-B dev")
    ] = None,
    level: Annotated[
        Literal["word", "phrase", "sentence"], Parameter(help="label-free: kind of text; single words lose a letter instead of words")
    ] = ("sentence"),
    language: Annotated[
        str | None,
        Parameter(
            help="language of your own tsv and of --texts, for models that treat languages differently: en, or es,en for the two columns;"
            " suites know their languages"
        ),
    ] = None,
    fit_texts: Annotated[
        str | None,
        Parameter(
            help="texts to fit lexical, characters and static:MODEL on, one per line; default: the texts of each suite, without scores"
        ),
    ] = None,
    output: flags.FiguresOutput = None,
    chart: Annotated[Path | None, Parameter(help="draw the figures into this SVG file")] = None,
    overwrite: flags.Overwrite = False,
    typos: Annotated[
        tuple[float, ...],
        Parameter(
            help="tagging: share of characters to misspell, 0 for none; repeat the option for several", negative=(), show_default=False
        ),
    ] = (),
    unknown_labels: Annotated[
        Literal["refuse", "count-as-wrong"],
        Parameter(help="tagging: texts with labels that a model does not know: refuse to measure, or count them as wrong"),
    ] = "refuse",
    resamples: Annotated[int, Parameter(help="bootstrap resamples behind each interval; below 200 its ends are rough")] = 1000,
    seed: Annotated[int, Parameter(validator=Number(gte=0), help="seed of the resamples")] = 13,
    pooling: Annotated[
        AnyPooling | None, Parameter(help="how token vectors become one; default: each model's own setting, else mean")
    ] = None,
    max_tokens: Annotated[
        int | None, Parameter(help="cut texts at this many tokens; default: each model's limit (512 if it has none); cut texts are counted")
    ] = None,
    batch_tokens: Annotated[int | None, Parameter(help="tokens encoded at a time; changes speed and memory, never the figures")] = None,
    output_dtype: Annotated[
        tuple[OutputDtype, ...],
        Parameter(
            help="also measure vectors stored as float32, float16, int8 (ranges of the evaluated texts) or binary, and what that loses;"
            " repeat the option for several",
            negative=(),
            show_default=False,
        ),
    ] = (),
    dims: Annotated[int | None, Parameter(help="numbers kept of each vector in these forms; alone: float32; default: all")] = None,
    device: flags.Device = None,
    dtype: flags.ComputeDtype = "auto",
    backend: flags.Backend = "auto",
    trust_remote_code: flags.TrustRemoteCode = False,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:
    """Compare encoders on STS, word similarity, transfer, word translation, entity linking, few-shot classes, your own tables, or without labels.

    tain evaluate tain-mini --suite my_pairs.tsv

    --suite mlm measures the loss of masked language models instead, on --texts or on the valid_* files of --data. --suite tagging (or
    atis, snips, clinc150, slurp, xsid, xsid_de, ...; or --data TABLE with the columns text, intent, slots) measures students,
    classifiers and taggers on intents and slots, with and without typing errors.

    Every figure comes with a 95% bootstrap interval and, with several models, its difference to the first. Sets without a file are
    listed and left out of the mean.

    Three models need no training, and an encoder should beat them: lexical (overlap of word pieces, rare ones count more), characters
    (TF-IDF of character n-grams) and static:MODEL (the mean of MODEL's input embeddings, whitened).

    Parameters
    ----------
    models
        folders (of encoders or students), hub names, tain-mini, word vectors in text (.vec, .vec.gz), lexical, characters, or
        static:MODEL; the others are compared with the first.
        For the suites bli and sts17, one model per language: en=MODEL,de=MODEL
    """
    from tain.cli.models import find_model, load_model, model_names
    from tain.evaluation.suites.registry import separate_suite
    from tain.evaluation.suites.separate import SeparateOptions
    from tain.foundation.choices import is_baseline
    from tain.foundation.errors import UserError
    from tain.foundation.files import refuse_files
    from tain.foundation.progress import Progress

    if (row := separate_suite(suite)) is not None:
        given = {
            "texts": texts,
            "chart": chart,
            "language": language,
            "fit_texts": fit_texts,
            "pooling": pooling,
            "max_tokens": max_tokens,
            "batch_tokens": batch_tokens,
            "output_dtype": output_dtype or None,
            "dims": dims,
            "dtype": None if dtype in row.dtypes else dtype,
            "backend": None if backend == "auto" else backend,
            "level": None if level == "sentence" else level,
            "split": None if split == "test" else split,
            "typos": typos or None,
            "unknown_labels": None if unknown_labels == "refuse" else unknown_labels,
        }
        options = SeparateOptions(
            names=suite,
            data=data,
            texts=texts,
            split=split,
            typos=typos,
            unknown_labels=unknown_labels,
            block_tokens=max_tokens,
            chart=chart,
            resamples=resamples,
            seed=seed,
        )
        on = {"device": device, "dtype": dtype, "trust_remote_code": trust_remote_code}
        _evaluate_separately(row, models, options, given=given, on=on, output=output, overwrite=overwrite, json=json, quiet=quiet)
        return

    from tain.evaluation.report import evaluate as evaluate_encoders
    from tain.evaluation.suites.registry import is_table

    if batch_tokens is not None and batch_tokens < 1:
        raise UserError(f"batch_tokens is {batch_tokens}, but a batch needs at least one token: give 1 or more, or leave it out")
    if typos or unknown_labels != "refuse":
        raise UserError("typos and unknown_labels only apply to the suite tagging: leave them out")
    if split != "test" and all(name == "label-free" or is_table(name) for name in suite):
        raise UserError(f"split is {split!r}, but your own tables and label-free are not split: leave it out")
    if (texts is not None or level != "sentence") and "label-free" not in suite:
        raise UserError("texts and level only apply to the suite label-free: leave them out, or give --suite label-free too")
    if fit_texts is not None and not any(map(is_baseline, models)):
        raise UserError(
            "fit_texts only applies to lexical, characters and static:MODEL, and none is among the models: leave it out, or add one"
        )
    inputs = [*model_names(*models), *filter(is_table, suite), texts, fit_texts]
    refuse_files(output, chart, overwrite=overwrite, drawn=chart, inputs=inputs)
    for model in models:
        find_model(model)  # check all models first: the last one may be missing
    progress = Progress.for_terminal(json=json, quiet=quiet)
    options = {
        "pooling": pooling,
        "max_tokens": max_tokens,
        "device": device,
        "dtype": dtype,
        "backend": backend,
        "trust_remote_code": trust_remote_code,
        "fit_texts": _read(fit_texts),
    }
    # a generator, consumed after the sets are read: a wrong path is reported before importing torch
    encoders: Iterable[TextEncoder] = (load_model(model, batch_tokens=batch_tokens, progress=progress, **options) for model in models)
    forms: list[InForm] = []
    if output_dtype or dims is not None:
        encoders = _with_forms(encoders, output_dtype or ("float32",), dims, forms)
    report = evaluate_encoders(
        encoders,
        suite,
        data,
        split=split,
        texts=_read(texts),
        level=level,
        languages=_languages(language),
        resamples=resamples,
        seed=seed,
        progress=progress,
    )
    _write(report, forms, output=output, chart=chart, overwrite=overwrite)
    _show(report, forms, as_json=json)


def _with_forms(
    encoders: "Iterable[TextEncoder]", dtypes: tuple[OutputDtype, ...], dims: int | None, seen: "list[InForm]"
) -> "Iterator[TextEncoder]":
    """Each encoder followed by its forms, which are also added to ``seen``."""
    from tain.evaluation.forms import with_forms

    for form in with_forms(encoders, dtypes=dtypes, dims=dims):
        seen.append(form)
        yield form


def _evaluate_separately(
    row: "SeparateSuite",
    models: list[str],
    options: "SeparateOptions",
    *,
    given: dict[str, object],
    on: dict[str, Any],
    output: Path | None,
    overwrite: bool,
    json: bool,
    quiet: bool,
) -> None:
    """Measure other models than encoders, print a table or one JSON object, and write the output file.

    Args:
        row: The suite.
        models: Names of the models.
        options: What is measured.
        given: Values of the flags that some suites do not have; None means not given.
        on: Device, data type and trust, for loading the models.
        output: File for the report.
        overwrite: Replace it.
        json: Print one JSON object.
        quiet: Show no progress.
    """
    from tain.cli.models import model_names
    from tain.evaluation.suites.registry import is_table
    from tain.foundation.errors import UserError
    from tain.foundation.files import refuse_existing
    from tain.foundation.progress import Progress

    if others := sorted(name for name in set(options.names) if not row.owns(name)):
        first = next(name for name in options.names if row.owns(name))
        raise UserError(f"suite {first} measures other models than {', '.join(others)}: run {'them' if row.sets else 'it'} separately")
    refuse_idle({name: value for name, value in given.items() if name not in row.flags}, of=f"suite {options.names[0]}")
    row.check(options)
    if output is not None:
        inputs = [*model_names(*models), *filter(is_table, options.names), options.data, options.texts]
        refuse_existing(output, overwrite=overwrite, inputs=inputs)
    find, load = _LOADERS[row.models]
    for model in models:
        find(model)
    loaded = row.load(options)
    progress = Progress.for_terminal(json=json, quiet=quiet)
    report = row.measure((load(model, on) for model in dict.fromkeys(models)), loaded, options, progress)
    if output is not None:
        write_object(report.to_dict(), output, overwrite=overwrite)
    if json:
        print(as_object(report.to_dict()))
        return
    from rich.console import Console

    Console(highlight=False).print(report.as_table())


def _find_masked(name: str) -> None:
    from tain.models.saved import locate

    locate(name)


def _load_masked(name: str, on: dict[str, Any]) -> Any:
    from tain.models.masked_lm import MaskedPredictor

    return MaskedPredictor.load(name, **on)


def _find_labeller(name: str) -> None:
    from tain.cli.models import find_labeller

    find_labeller(name)


def _load_labeller(name: str, on: dict[str, Any]) -> Any:
    from tain.cli.models import load_labeller

    return load_labeller(name, device=on["device"], trust_remote_code=on["trust_remote_code"])


# kind of models that a suite measures -> how one is looked up, and loaded
_LOADERS: dict[str, tuple[Callable[[str], None], Callable[[str, dict[str, Any]], Any]]] = {
    "masked language models": (_find_masked, _load_masked),
    "labellers": (_find_labeller, _load_labeller),
}


def _languages(given: str | None) -> tuple[str | None, str | None]:
    from tain.foundation.errors import UserError

    if given is None:
        return None, None
    parts = given.lower().split(",")
    if len(parts) > 2 or not all(parts):
        raise UserError(f"language is {given!r}: give one, for example en, or one per column, for example es,en")
    return parts[0], parts[-1]


def _read(source: str | None) -> list[str] | None:
    if source is None:
        return None
    from tain.text.readers import read_texts

    return list(read_texts(source))


def _as_dict(report: "EvaluationReport", forms: "list[InForm]") -> dict[str, object]:
    from dataclasses import asdict

    from tain.evaluation.forms import form_figures

    return report.to_dict() | ({"forms": [asdict(each) for each in form_figures(report, forms)]} if forms else {})


def _write(report: "EvaluationReport", forms: "list[InForm]", *, output: Path | None, chart: Path | None, overwrite: bool) -> None:
    from tain.evaluation.charts import as_svg
    from tain.foundation.files import whole_file

    if output is not None:
        write_object(_as_dict(report, forms), output, overwrite=overwrite)
    if chart is not None:
        with whole_file(chart, overwrite=overwrite) as path:
            path.write_text(as_svg(report), encoding="utf-8")


def _show(report: "EvaluationReport", forms: "list[InForm]", *, as_json: bool) -> None:
    """Print the table and a one-line summary, or everything as one JSON object."""
    if as_json:
        print(as_object(_as_dict(report, forms)))
        return
    from rich.console import Console

    from tain.evaluation.charts import headline_sentence
    from tain.evaluation.table import as_table

    console = Console(highlight=False)
    console.print(as_table(report))
    if forms:
        from tain.evaluation.forms import form_figures, forms_table

        console.print(forms_table(form_figures(report, forms), report.headline()[0]))
    console.print(f"\n{headline_sentence(report)}.", markup=False)

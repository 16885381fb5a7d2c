"""The functions that users call first: load any saved model, and evaluate models by name."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tain.foundation.choices import ComputeDtype
from tain.foundation.progress import Progress
from tain.loading import load as load_model

if TYPE_CHECKING:
    from tain.evaluation.report import EvaluationReport
    from tain.models.text_encoder import TextEncoder


def load(name: str | Path, *, device: str | None = None, dtype: ComputeDtype = "auto", trust_remote_code: bool = False) -> Any:
    """Load a saved model as what its folder holds: an ``Embedder``, a ``Ranker``, a ``Student`` or a ``Labeller``.

    A folder that ``tain export`` wrote is loaded without torch, as ``ExportedEncoder`` or as its exported ranker, unless ``device`` or ``dtype``
    need torch. An encoder is loaded as ``Embedder``, a ranker or a cross-encoder as ``Ranker``, a student as ``Student`` (without torch), a transformers
    classifier or tagger as ``Labeller``.

    Args:
        name: A folder, a hub name, or ``tain-mini``.
        device: ``cpu``, ``cuda`` or ``cuda:N``; default: a GPU if there is one. Students run on the CPU.
        dtype: What an encoder or ranker computes in: ``float32``, ``bfloat16``, ``int8`` (exported folders), or ``auto``, which measures. Has no effect on students and
            labellers, which compute in their own.
        trust_remote_code: Allow the model to run Python code from its folder.

    Raises:
        UserError: There is no such model, or it cannot be run.

    Examples:
        >>> import tain
        >>> encoder = tain.load("tain-mini")
        >>> encoder.encode("one text").shape
        (384,)
        >>> vectors = encoder.encode(["a first text", "a second text"])
        >>> encoder.similarity(vectors, vectors).shape
        (2, 2)
    """
    return load_model(name, device=device, dtype=dtype, trust_remote_code=trust_remote_code)


def evaluate(
    models: "str | Path | TextEncoder | Iterable[str | Path | TextEncoder]",
    suite: str | Path | Iterable[str | Path] = "sts",
    data: str | Path | None = None,
    *,
    device: str | None = None,
    dtype: ComputeDtype = "auto",
    trust_remote_code: bool = False,
    progress: Progress | bool | None = None,
    **options: Any,
) -> "EvaluationReport":
    r"""Evaluate models, and return the report that ``tain evaluate`` prints.

    Args:
        models: One or more: folders, hub names, ``tain-mini``, ``lexical``, ``static:MODEL``, files of word vectors, or loaded encoders. All
            are compared with the first.
        suite: One or more suites, single sets or own tables, as ``tain evaluate --suite`` takes them.
        data: The folder with the suites' files; not needed for ``label-free`` with ``texts`` and for own tables.
        device: ``cpu``, ``cuda`` or ``cuda:N`` for models given by name; default: a GPU if there is one.
        dtype: What models given by name compute in, as in ``load``.
        trust_remote_code: Run Python code from the folders of models given by name.
        progress: ``False`` shows nothing; ``None`` (default) shows a bar on a terminal or in a notebook; or a ``Progress``.
        **options: As ``tain.evaluation.report.evaluate`` takes them: ``split``, ``texts``, ``level``, ``languages``, ``resamples``, ``seed``.

    Returns:
        The report; ``str(report)`` is the table, ``report.to_dict()`` the JSON.

    Raises:
        UserError: A model or a set is missing, or a setting cannot work.

    Examples:
        >>> import tain
        >>> from pathlib import Path
        >>> rows = ["a cat\ta kitten\t4", "a cat\ta car\t1", "rain\tsnow\t3", "rain\tbread\t0"]
        >>> _ = Path("pairs.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *rows]))
        >>> report = tain.evaluate(["tain-mini", "lexical"], suite="pairs.tsv", resamples=100)
        >>> [model.name for model in report.models]
        ['tain-mini', 'lexical']
        >>> "lexical" in str(report)  # the table that the command prints
        True
    """
    from tain.cli.models import find_model
    from tain.cli.models import load_model as load_named
    from tain.evaluation.report import evaluate as report_on

    resolved = Progress.resolve(progress)
    given = [models] if isinstance(models, str | Path) or hasattr(models, "encode") else list(models)  # type: ignore[arg-type]
    for one in given:
        if isinstance(one, str | Path):
            find_model(str(one))
    chosen = {"device": device, "dtype": dtype, "trust_remote_code": trust_remote_code}
    encoders = (
        load_named(str(one), batch_tokens=None, progress=resolved, **chosen) if isinstance(one, str | Path) else one for one in given
    )
    suites = (str(suite),) if isinstance(suite, str | Path) else tuple(map(str, suite))
    return report_on(encoders, suites, None if data is None else Path(data), progress=resolved, **options)  # type: ignore[arg-type]

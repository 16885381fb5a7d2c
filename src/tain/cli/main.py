"""The command ``tain``: finds and runs the verb, and turns errors into messages and exit codes."""

import codecs
import os
import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

from tain.cli.old_flags import with_new_names
from tain.foundation.errors import UserError
from tain.foundation.machine import put_off_collection

if TYPE_CHECKING:
    from cyclopts import App

# shown in the list of verbs without importing them; the help of a verb comes from its docstring
VERBS = {
    "demo": "Train and measure an encoder on text from this machine, offline, in about two minutes.",
    "mirror": "Turn a masked language model and a file of texts into an encoder.",
    "pretrain": "Train a masked language model, from scratch or continued.",
    "distil": "Train a student of two to four megabytes to predict a large model's outputs.",
    "encode": "Encode texts as vectors.",
    "label": "Predict classes or token tags with a student, a classifier or a tagger.",
    "correct": "Remove the components that all vectors (or all vectors of one language) share.",
    "evaluate": "Compare encoders on labelled tasks and without labels.",
    "compare": "Try the label-free recipes on your own texts and keep the best.",
    "rank": "Train, use and compare bi-, poly- and cross-encoders: rank train, score, search, index, evaluate.",
    "export": "Write an encoder or a ranker as ONNX graphs that run without torch.",
    "bench": "Measure every backend and data type for a model on this machine.",
    "serve": "Answer embedding, rerank and classification requests over HTTP.",
    "push": "Upload a model to the hub, with a complete card.",
    "inspect": "Show which tokens a model's vectors come from, and why two texts are similar.",
    "gradients": "Measure where a masked LM's gradient noise comes from: masks or texts.",
}

_EXTRAS = {
    **dict.fromkeys(("torch", "transformers", "onnx", "jinja2"), "train"),
    **dict.fromkeys(("fastapi", "orjson", "prometheus_client", "pydantic", "starlette", "uvicorn"), "serve"),
}


def build_app(called: str | None = None) -> "App":
    """Build the cyclopts app; each verb's module is imported only when it is called.

    Args:
        called: The verb that runs. It gets no one-line help, which would replace its docstring and hide the example.
    """
    from cyclopts import App
    from cyclopts.config import Env

    import tain

    app = App(
        name="tain",
        help="Turn any pretrained masked language model into a word and sentence encoder, from raw text, without labels.",
        version=tain.__version__,
        help_format="plaintext",
        suppress_keyboard_interrupt=False,  # main reports it
        # a server is set up by its environment: TAIN_SERVE_PORT and so on
        config=[Env("TAIN_")] if called == "serve" else None,
    )
    for name, line in VERBS.items():
        app.command(f"tain.cli.{name}:{name}", name=name, help=None if name == called else line)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Exits 0 when done and 2 on invalid input; any other exception is a bug and keeps its traceback."""
    from cyclopts.exceptions import CycloptsError, UnusedCliTokensError

    if arguments is None:  # called as a program, not as a function
        put_off_collection()
        _escape_what_terminals_cannot_show()
        _print_warnings_of_sources(as_json="--json" in sys.argv)
        arguments = sys.argv[1:]
    arguments = with_new_names(arguments)
    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    try:
        build_app(called)(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except UserError as error:
        _refuse(str(error))
    except CycloptsError as error:
        error.verbose = False
        verb = f" {called}" if called in VERBS else ""
        verb += next(
            (f" {part}" for part in arguments if called == "rank" and part in ("train", "score", "search", "index", "evaluate")), ""
        )
        message = " ".join(str(error).split())
        if isinstance(error, UnusedCliTokensError):
            message = f"{', '.join(map(repr, error.unused_tokens or []))} is an extra argument that the command does not take"
        _refuse(f"{message if message.endswith('...') else message.rstrip('.')} (see tain{verb} --help)")
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        _refuse(f'tain {called} needs {error.name}, which is not installed: run pip install "tain[{_EXTRAS[error.name]}]"')
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        _go_quietly()
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # rich exits this way when the reader of its output has closed
            _go_quietly()
        raise


def _print_warnings_of_sources(*, as_json: bool) -> None:
    """Print the warnings of readers as lines or JSON events, like all other warnings."""
    import warnings

    from tain.foundation.files import LeftoverWarning
    from tain.foundation.progress import Progress
    from tain.text.lines import SourceWarning

    shown_by_python = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *location: Any, **more: Any) -> None:
        if issubclass(category, SourceWarning | LeftoverWarning):
            Progress("json" if as_json else "lines").warn(str(message))
        else:
            shown_by_python(message, category, *location, **more)

    warnings.showwarning = show


def _escape_what_terminals_cannot_show() -> None:
    """Escape characters that the terminal's encoding lacks, as in JSON (``u`` and four digits)."""

    def escaped(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        lacking = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
        return "".join(f"\\u{lacking[at : at + 2].hex()}" for at in range(0, len(lacking), 2)), error.end

    codecs.register_error("tain-escape", escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="tain-escape")


def _go_quietly() -> None:
    """Exit after a broken pipe; discard unwritten output, or Python would print an error on exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def _refuse(message: str) -> None:
    print(f"error: {' '.join(message.splitlines())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()

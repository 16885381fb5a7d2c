"""The command ``tain``: finds the verb, runs it, turns errors into lines and exit codes."""

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

# shown in the list of verbs, without importing any; a verb's own help comes from its docstring
VERBS = {
    "demo": "The whole main job on this machine, offline, in under two minutes.",
    "mirror": "Turn a masked language model and a file of texts into an encoder.",
    "pretrain": "Train a masked language model, from scratch or continued.",
    "distil": "Teach a student of two to four megabytes what a large model says of texts.",
    "encode": "Turn texts into vectors.",
    "label": "Tell each text's class, or its tokens' tags, by a student, a classifier or a tagger.",
    "correct": "Take from an encoder's vectors what all of them share, or all of one language.",
    "evaluate": "Measure encoders on labelled tasks and without labels.",
    "rank": "Train, use and compare bi-, poly- and cross-encoders: rank train, score, search, evaluate.",
    "serve": "Answer embedding, rerank and classification requests over HTTP.",
    "inspect": "See what a model's token vectors are made of, and why two texts are similar.",
    "gradients": "Measure where a masked LM's gradient noise comes from: masks or texts.",
}

_EXTRAS = {"torch": "train", "transformers": "train", "onnx": "train", "uvicorn": "serve", "starlette": "serve", "pydantic": "serve"}


def build_app(called: str | None = None) -> "App":
    """Build the cyclopts app with every verb by its import path: a verb's module is imported when it is called.

    Args:
        called: The verb that runs. A line of help given here would stand in for its docstring and hide the example.
    """
    from cyclopts import App

    import tain

    app = App(
        name="tain",
        help="Turn any pretrained masked language model into a word and sentence encoder, with no labels, in seconds.",
        version=tain.__version__,
        help_format="plaintext",
        suppress_keyboard_interrupt=False,  # main tells of it
    )
    for name, line in VERBS.items():
        app.command(f"tain.cli.{name}:{name}", name=name, help=None if name == called else line)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Exits 0 when done, 2 when the user's input cannot work; any other exception is our bug and shows."""
    from cyclopts.exceptions import CycloptsError, UnusedCliTokensError

    if arguments is None:  # this process is ours
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
        verb += next((f" {part}" for part in arguments if called == "rank" and part in ("train", "score", "search", "evaluate")), "")
        message = " ".join(str(error).split())
        if isinstance(error, UnusedCliTokensError):
            message = f"{', '.join(map(repr, error.unused_tokens or []))} is more than the command takes"
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
        if isinstance(stop.__context__, BrokenPipeError):  # so rich ends a program whose reader went away
            _go_quietly()
        raise


def _print_warnings_of_sources(*, as_json: bool) -> None:
    """Print what readers warn of as one line, or as one JSON event, like all other warnings of tain."""
    import warnings

    from tain.foundation.progress import Progress
    from tain.text.lines import SourceWarning

    shown_by_python = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *location: Any, **more: Any) -> None:
        if issubclass(category, SourceWarning):
            Progress("json" if as_json else "lines").warn(str(message))
        else:
            shown_by_python(message, category, *location, **more)

    warnings.showwarning = show


def _escape_what_terminals_cannot_show() -> None:
    """Print every text on every terminal: what its encoding lacks is escaped as in JSON (``u`` and four digits)."""

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
    """The reader of our output went away: what is left goes nowhere, or Python would complain about it at the very end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def _refuse(message: str) -> None:
    print(f"error: {' '.join(message.splitlines())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()

"""The command ``tain``: finds the verb, runs it, turns errors into lines and exit codes."""

import sys

from tain.foundation.errors import UserError


def build_app():
    """Build the cyclopts app with every verb by its import path: a verb's module is imported when it is called."""
    from cyclopts import App

    import tain

    app = App(
        name="tain",
        help="Turn any pretrained masked language model into a word and sentence encoder, with no labels, in seconds.",
        version=tain.__version__,
        help_format="plaintext",
    )
    verbs = {
        "demo": ("tain.cli.demo:demo", "The whole main job on this machine, offline, in under two minutes."),
        "mirror": ("tain.cli.mirror:mirror", "Turn a masked language model and a file of texts into an encoder."),
        "pretrain": ("tain.cli.pretrain:pretrain", "Train a masked language model, from scratch or continued."),
        "encode": ("tain.cli.encode:encode", "Turn texts into vectors."),
        "evaluate": ("tain.cli.evaluate:evaluate", "Measure encoders on similarity tasks and on their geometry."),
    }
    for name, (path, help_text) in verbs.items():
        app.command(path, name=name, help=help_text)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Exits 0 when done, 2 when the user's input cannot work; any other exception is our bug and shows."""
    from cyclopts.exceptions import CycloptsError

    try:
        build_app()(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except UserError as error:
        _refuse(str(error))
    except CycloptsError as error:
        error.verbose = False
        _refuse(" ".join(str(error).split()))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away: nothing is left to say
        sys.exit(0)


def _refuse(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()

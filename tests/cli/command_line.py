"""What the tests of verbs share."""

from tain.cli.main import main


def run(*arguments: object) -> object:
    """Run the command line in this process and return its exit code."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        return stopped.code
    return 0

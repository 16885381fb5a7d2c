"""Hidden aliases for the flags of earlier versions."""

from collections.abc import Sequence

from tain.foundation.old_names import SETTINGS, SUITES

# per command: a flag, or a flag with one of its values
FLAGS: dict[str, dict[str, str]] = {"encode": {"--normalise": "--normalize"}, "evaluate": {"--unseen": "--unknown-labels"}}
VALUES: dict[str, dict[str, dict[str, str]]] = {"evaluate": {"--unknown-labels": {"wrong": "count-as-wrong"}, "--suite": SUITES}}


def with_new_names(arguments: Sequence[str]) -> list[str]:
    """Replace old flags and values in the arguments of a command line by their current names."""
    called = next((argument for argument in arguments if not argument.startswith("-")), "")
    flags = FLAGS.get(called, {}) | {_flag(old): _flag(new) for old, new in SETTINGS.get(called, {}).items()}
    flags |= {old.replace("--", "--no-", 1): new.replace("--", "--no-", 1) for old, new in flags.items()}
    values = VALUES.get(called, {})
    made: list[str] = []
    for number, argument in enumerate(arguments):
        if argument == "--":
            return [*made, *arguments[number:]]
        flag, equals, value = argument.partition("=")
        before = made[-1] if made else ""
        if flag.startswith("--"):
            flag = flags.get(flag, flag)
            made.append(f"{flag}{equals}{values.get(flag, {}).get(value, value)}")
        else:
            made.append(values.get(before, {}).get(argument, argument))
    return made


def _flag(setting: str) -> str:
    return f"--{setting.replace('_', '-')}"

"""Data sets with intents and slots: known sets in a data folder, and user tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tain.evaluation.suites.tasks import read_columns
from tain.foundation.errors import UserError
from tain.text.readers import read_rows
from tain.text.records import Example
from tain.text.tags import tokens_of

SUITE = "tagging"
XSID_LANGUAGES = (
    *("ar", "da", "de", "de-ba", "de-muc", "de-st", "en", "gsw", "id", "it"),
    *("ja", "kk", "lt", "nap", "nl", "no", "sr", "tr", "zh"),
)

# key: files of the test part, the development part and the training part
_FILES: dict[str, tuple[str, str | None, str]] = {
    "atis": ("atis/atis_test.tsv", "atis/atis_valid.tsv", "atis/atis_train.tsv"),
    "snips": ("snips/snips_test.tsv", "snips/snips_valid.tsv", "snips/snips_train.tsv"),
    "clinc150": ("clinc150/clinc150_test.tsv", "clinc150/clinc150_val.tsv", "clinc150/clinc150_train.tsv"),
    "slurp": ("slurp/slurp_test.tsv", "slurp/slurp_devel.tsv", "nlu_home/nlu_home.tsv"),
    # its English training part is not available, so students learn from the validation part
    "xsid": ("xsid/xsid_test.tsv", None, "xsid/xsid_valid.tsv"),
}

SET_NAMES = frozenset({*_FILES, *(f"xsid_{language}" for language in XSID_LANGUAGES)})

Part = Literal["test", "dev", "train"]


@dataclass(frozen=True)
class TaggingSet:
    """Texts with gold intents and slots.

    Attributes:
        key: Name on the command line.
        examples: The texts; either all or none have an intent, and likewise for tags.
    """

    key: str
    examples: tuple[Example, ...]

    @property
    def has_labels(self) -> bool:
        return self.examples[0].label is not None

    @property
    def has_tags(self) -> bool:
        return self.examples[0].tags is not None


def load_tagging(names: Sequence[str], data: Path | None, *, part: Part = "test") -> tuple[list[TaggingSet], list[str]]:
    """Load intent and slot sets by name.

    Args:
        names: ``tagging`` for all sets of the folder, or single sets (``atis``, ``xsid_de``, ...).
        data: Folder with ``atis/`` and others; or a user table, with ``tagging`` as the only name.
        part: Part of each set.

    Returns:
        The sets, with xSID split by language, and the sets of ``tagging`` without a file or without this part.

    Raises:
        UserError: There is no data, a set named explicitly is absent, or a table has the wrong format.
    """
    if data is None:
        raise UserError(f"suite {', '.join(names)} needs its files: give their folder, or your own table, with --data")
    if data.is_file():
        if list(names) != [SUITE]:
            raise UserError(f"data is the table {str(data)!r}, which goes with --suite {SUITE} alone, not with {', '.join(names)}")
        return [_set(data.name.split(".")[0], data)], []
    if not data.exists():
        raise UserError(f"data is {str(data)!r}, which does not exist: give the folder that holds atis/ and the others, or your own table")
    wanted = dict.fromkeys(key for name in names for key in (_FILES if name == SUITE else [name]))
    found: list[TaggingSet] = []
    absent: list[str] = []
    for key in wanted:
        family = key.partition("_")[0]
        name = _FILES[family][("test", "dev", "train").index(part)]
        if name is None or not (data / name).exists():
            if key in names:
                raise UserError(
                    f"set {key} has no part for --split {part}: its validation part is used for training"
                    if name is None
                    else f"set {key} is named, but {str(data / name)!r} does not exist: give the data's folder with --data"
                )
            absent.append(key)
        elif family == "xsid":
            found += _languages(data / name, None if key == "xsid" else key.removeprefix("xsid_"))
        else:
            found.append(_set(key, data / name))
    if not found:
        raise UserError(f"data is {str(data)!r}, which has none of {', '.join(absent)}: give the folder that holds atis/ and the others")
    return found, absent


def _set(key: str, file: Path) -> TaggingSet:
    """Read a table with a text column, and intent, slots or both."""
    header, _ = read_rows(file)
    columns = [column for column in ("intent", "slots") if column in header]
    if not columns:
        raise UserError(f"{str(file)!r} has the columns {', '.join(header)}, but intent, slots or both are needed: rename them")
    return TaggingSet(key, tuple(_examples(file, ["text", *columns])))


def _languages(file: Path, only: str | None) -> list[TaggingSet]:
    languages = [language for (language,) in read_columns(file, ["lang"])]
    parts: dict[str, list[Example]] = {}
    for language, example in zip(languages, _examples(file, ["text", "intent", "slots"]), strict=True):
        if only in (None, language):
            parts.setdefault(language, []).append(example)
    return [TaggingSet(f"xsid_{language}", tuple(examples)) for language, examples in parts.items()]


def _examples(file: Path, columns: Sequence[str]) -> list[Example]:
    found = []
    for number, cells in enumerate(read_columns(file, columns), start=1):
        row = dict(zip(columns, cells, strict=True))
        tags = tuple(row["slots"].split()) if "slots" in row else None
        if tags is not None and len(tags) != len(tokens_of(row["text"])):
            raise UserError(
                f"{str(file)!r}, row {number}: {len(tokens_of(row['text']))} tokens (separated by blanks) and {len(tags)} tags:"
                " give one tag per token"
            )
        found.append(Example(row["text"], row.get("intent"), tags))
    return found

"""Sets of texts with intents and slots: where they lie below a data folder, and a table of one's own."""

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

# key: file of the part that is measured, of the part that settings are chosen on, and of the part to train on
_FILES: dict[str, tuple[str, str | None, str]] = {
    "atis": ("atis/atis_test.tsv", "atis/atis_valid.tsv", "atis/atis_train.tsv"),
    "snips": ("snips/snips_test.tsv", "snips/snips_valid.tsv", "snips/snips_train.tsv"),
    "clinc150": ("clinc150/clinc150_test.tsv", "clinc150/clinc150_val.tsv", "clinc150/clinc150_train.tsv"),
    "slurp": ("slurp/slurp_test.tsv", "slurp/slurp_devel.tsv", "nlu_home/nlu_home.tsv"),
    # its English training part is not at hand, so the validation part is what students learn from
    "xsid": ("xsid/xsid_test.tsv", None, "xsid/xsid_valid.tsv"),
}

Part = Literal["test", "dev", "train"]


@dataclass(frozen=True)
class TaggingSet:
    """Texts with what people said of them.

    Attributes:
        key: What the command line calls it.
        examples: The texts; all have an intent or none, all have tags or none.
    """

    key: str
    examples: tuple[Example, ...]

    @property
    def has_labels(self) -> bool:
        return self.examples[0].label is not None

    @property
    def has_tags(self) -> bool:
        return self.examples[0].tags is not None


def is_tagging(name: str) -> bool:
    """True where a suite's name stands for texts with intents and slots."""
    return name == SUITE or name in _FILES or name in {f"xsid_{language}" for language in XSID_LANGUAGES}


def load_tagging(names: Sequence[str], data: Path | None, *, part: Part = "test") -> tuple[list[TaggingSet], list[str]]:
    """Load the sets that ``names`` stand for.

    Args:
        names: ``tagging`` for all sets of the folder, single sets (``atis``, ``xsid_de``, ...).
        data: The folder that holds ``atis/`` and so on; or a table of one's own, with ``tagging`` as the only name.
        part: Which part of a set.

    Returns:
        The sets, xSID language by language, and those of ``tagging`` whose file is absent or that have no such part.

    Raises:
        UserError: There is no data, a set that is named by itself is absent, or a table is not what it should be.
    """
    if data is None:
        raise UserError(f"suite {', '.join(names)} needs its files: give their folder, or a table of your own, with --data")
    if data.is_file():
        if list(names) != [SUITE]:
            raise UserError(f"data is the table {str(data)!r}, which goes with --suite {SUITE} alone, not with {', '.join(names)}")
        return [_set(data.name.split(".")[0], data)], []
    if not data.exists():
        raise UserError(f"data is {str(data)!r}, which does not exist: give the folder that holds atis/ and so on, or a table of your own")
    wanted = dict.fromkeys(key for name in names for key in (_FILES if name == SUITE else [name]))
    found: list[TaggingSet] = []
    absent: list[str] = []
    for key in wanted:
        family = key.partition("_")[0]
        name = _FILES[family][("test", "dev", "train").index(part)]
        if name is None or not (data / name).exists():
            if key in names:
                raise UserError(
                    f"set {key} has no part for --split {part}: its validation part is for training"
                    if name is None
                    else f"set {key} is named, but {str(data / name)!r} does not exist: give the data's folder with --data"
                )
            absent.append(key)
        elif family == "xsid":
            found += _languages(data / name, None if key == "xsid" else key.removeprefix("xsid_"))
        else:
            found.append(_set(key, data / name))
    if not found:
        raise UserError(f"data is {str(data)!r}, which has none of {', '.join(absent)}: give the folder that holds atis/ and so on")
    return found, absent


def _set(key: str, file: Path) -> TaggingSet:
    """Read a table with the columns text, and intent, slots or both."""
    header, _ = read_rows(file)
    columns = [column for column in ("intent", "slots") if column in header]
    if not columns:
        raise UserError(f"{str(file)!r} has the columns {', '.join(header)}, but intent, slots or both are needed: name them so")
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
                f"{str(file)!r}, row {number}: {len(tokens_of(row['text']))} tokens (what stands between blanks) and {len(tags)} tags:"
                " give a tag a token"
            )
        found.append(Example(row["text"], row.get("intent"), tags))
    return found

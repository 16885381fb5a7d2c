"""The table of suites: each is a row, and a new one needs no other change."""

from pathlib import Path

import pytest

from tain.evaluation.report import evaluate
from tain.evaluation.suites import registry
from tain.evaluation.suites.pairs import pair_suite, table_source
from tain.evaluation.suites.registry import SUITES, encoder_suites, separate_suite
from tain.foundation.errors import UserError

ROWS = "sentence1\tsentence2\tscore\na b\ta b\t3\na b\ta c\t2\na b\td e\t1\na\tb\t0\n"


def test_names_of_suites_and_sets_are_all_different(tmp_path: Path):
    names = [row.name for row in SUITES]
    sets = [source.key for row in encoder_suites().values() for source in row.sources(tmp_path, "test")]
    sets += [name for row in SUITES if row.name not in encoder_suites() for name in row.sets]  # type: ignore[union-attr]
    assert len({*names, *sets}) == len(names) + len(sets) > 40


@pytest.mark.parametrize(
    ("names", "owner"), [(["sts"], None), (["mlm"], "mlm"), (["sts", "xsid_de"], "tagging"), (["tagging", "atis"], "tagging"), ([], None)]
)
def test_suites_of_other_models_are_recognised_by_their_sets(names: list[str], owner: str | None):
    found = separate_suite(names)
    assert (found.name if found else None) == owner


def test_a_new_suite_is_a_row(tmp_path: Path, bag, monkeypatch):
    (tmp_path / "mine.tsv").write_text(ROWS, encoding="utf-8")
    mine = pair_suite("mine", "Mine", lambda data, split: [table_source("mine_set", "My set", "", "mine.tsv", languages=(None, None))])
    with pytest.raises(UserError, match="suite is 'mine', which is not a suite, set or table"):
        evaluate([bag()], ["mine"], tmp_path, resamples=5)
    monkeypatch.setattr(registry, "SUITES", (*SUITES, mine))
    for name in ("mine", "mine_set"):
        (suite,) = evaluate([bag()], [name], tmp_path, resamples=5).suites
        assert (suite.title, suite.groups[0].rows[0].title, suite.counted) == ("Mine", "My set", "pairs")
        assert suite.groups[0].rows[0].figures[0].value > 50

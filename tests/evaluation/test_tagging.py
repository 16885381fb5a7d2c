"""Intents and slots: figures by hand, fair misspellings, what is left out, and labels that nobody was taught."""

import numpy as np
import pytest

from tain.evaluation.suites.tagging import TAGGING
from tain.evaluation.tagging import SideBySide, measure_tagging, slot_f1
from tain.evaluation.tagging_sets import TaggingSet, load_tagging
from tain.foundation.errors import ShapeError, UserError
from tain.text.records import Example, Prediction

EXAMPLES = (
    Example("fly to new york", "go", ("O", "O", "B-city", "I-city")),
    Example("rain in rome", "weather", ("O", "O", "B-city")),
    Example("hello you", "greet", ("O", "O")),
    Example("go to oslo", "go", ("O", "O", "B-city")),
)
SET = TaggingSet("trips", EXAMPLES)
LABELS, TAGS = ("go", "weather", "greet"), ("O", "B-city", "I-city")


class Fixed:
    """Says the same of every text of a set, whatever became of its letters."""

    truncated = 0

    def __init__(self, said, *, name="fixed", labels=LABELS, tags=TAGS):
        self.name, self.labels, self.tags, self.said, self.read = name, labels, tags, said, []

    def predict(self, texts, *, progress=None):
        self.read.append(list(texts))
        return self.said


def right(examples=EXAMPLES):
    return [Prediction(example.label, 1.0, list(example.tags)) for example in examples]


# ---- F1


def test_a_slot_counts_where_kind_and_both_ends_are_right():
    gold = [["O", "B-a", "I-a", "O", "B-b"], ["B-a", "O"]]
    assert slot_f1(gold, gold) == 1.0
    found = [["O", "B-a", "O", "O", "B-b"], ["B-c", "O"]]  # one of three right, three told
    assert slot_f1(gold, found) == pytest.approx(1 / 3)


def test_slots_that_nobody_has_and_slots_made_up():
    assert slot_f1([["O"]], [["O"]]) == 1.0
    assert slot_f1([["O"]], [["B-a"]]) == 0.0


def test_texts_of_unequal_length_are_refused():
    with pytest.raises(ShapeError, match="text 0 has 1 gold tags and 2 predicted tags"):
        slot_f1([["O"]], [["O", "O"]])


# ---- a report


def test_figures_are_those_counted_by_hand():
    said = right()
    said[0] = Prediction("go", 1.0, ["O", "O", "B-city", "O"])  # the intent is right, the slot too short
    said[1] = Prediction("go", 1.0, ["O", "O", "B-city"])
    (row,) = measure_tagging([Fixed(said)], [SET]).rows
    assert {name: figure.value for name, figure in row.figures.items()} == pytest.approx(
        {"accuracy": 3 / 4, "slot_f1": 2 / 3, "exact": 2 / 4}
    )
    assert all(figure.interval.low <= figure.value <= figure.interval.high for figure in row.figures.values())
    assert (row.texts, row.unseen) == (4, 0)


def test_everything_right_has_no_uncertainty():
    (row,) = measure_tagging([Fixed(right())], [SET]).rows
    for figure in row.figures.values():
        assert (figure.interval.low, figure.value, figure.interval.high) == (1.0, 1.0, 1.0)


def test_what_a_model_does_not_tell_or_a_set_does_not_have_is_not_there():
    (row,) = measure_tagging([Fixed([Prediction("go", 1.0)] * 4, tags=())], [SET]).rows
    assert set(row.figures) == {"accuracy"}
    (row,) = measure_tagging([Fixed([Prediction(tags=list(example.tags)) for example in EXAMPLES], labels=())], [SET]).rows
    assert set(row.figures) == {"slot_f1"}
    untagged = TaggingSet("intents", tuple(Example(example.text, example.label) for example in EXAMPLES))
    (row,) = measure_tagging([Fixed(right())], [untagged]).rows
    assert set(row.figures) == {"accuracy"}


def test_a_classifier_and_a_tagger_are_one_model():
    classifier = Fixed([Prediction(example.label, 1.0) for example in EXAMPLES], tags=())
    tagger = Fixed([Prediction(tags=list(example.tags)) for example in EXAMPLES], labels=())
    (row,) = measure_tagging([SideBySide(classifier, tagger, name="both")], [SET]).rows
    assert row.model == "both"
    assert row.figures["exact"].value == 1.0


def test_the_mean_counts_each_set_alike():
    small = TaggingSet("small", EXAMPLES[:1])

    class Half(Fixed):
        def predict(self, texts, *, progress=None):
            return right(EXAMPLES[:1]) if len(texts) == 1 else [Prediction("greet", 1.0, list(example.tags)) for example in EXAMPLES]

    rows = measure_tagging([Half(None)], [SET, small]).rows
    assert [row.set for row in rows] == ["trips", "small", "mean"]
    assert rows[-1].figures["accuracy"].value == pytest.approx((1 / 4 + 1) / 2)
    assert rows[-1].texts == 5


def test_all_models_read_the_same_misspellings():
    one, other = Fixed(right(), name="one"), Fixed(right(), name="other")
    report = measure_tagging([one, other], [SET], typos=(0.4, 0.0))
    assert [(row.model, row.typos) for row in report.rows] == [("one", 0.0), ("one", 0.4), ("other", 0.0), ("other", 0.4)]
    assert one.read == other.read
    plain, spelt = one.read
    assert plain == [example.text for example in EXAMPLES]
    assert spelt != plain
    assert [text.count(" ") for text in spelt] == [text.count(" ") for text in plain]


def test_a_report_can_be_printed_and_written(capsys):
    from rich.console import Console

    report = measure_tagging([Fixed(right(), name="[bold]model")], [SET], typos=(0.0, 0.1), left_out=["snips (no file)"])
    Console(width=100).print(report.as_table())
    said = capsys.readouterr().out
    for part in ("[bold]model", "100.0 [100.0 100.0]", "10%", "Skipped: snips (no file)."):
        assert part in said
    row = report.to_dict()["rows"][0]
    assert row["figures"]["slot_f1"] == {"value": 1.0, "interval": [1.0, 1.0]}


# ---- labels that a model was not taught


def test_labels_unseen_in_training_are_refused_or_count_as_wrong():
    model = Fixed([Prediction("go", 1.0, ["O"] * len(example.tags)) for example in EXAMPLES], labels=("go",), tags=("O", "B-city"))
    with pytest.raises(
        UserError,
        match=r"3 of 4 texts of trips have labels unknown to model .* \(I-city, greet, weather\): give --unknown-labels count-as-wrong",
    ):
        measure_tagging([model], [SET], named=["trips"])
    report = measure_tagging([model], [SET], named=["trips"], unknown_labels="count-as-wrong")
    assert report.rows[0].unseen == 3
    assert report.rows[0].figures["accuracy"].value == 0.5


def test_sets_that_a_model_was_not_made_for_are_left_out_unless_they_are_named():
    other = TaggingSet("other", (Example("play a song", "music", ("O", "O", "B-song")),))
    report = measure_tagging([Fixed(right())], [SET, other])
    assert [row.set for row in report.rows] == ["trips"]
    assert report.left_out == ("other (most of the labels unknown to fixed)",)
    with pytest.raises(UserError, match="1 of 1 texts of other have labels"):
        measure_tagging([Fixed(right())], [SET, other], named=["other"])
    with pytest.raises(UserError, match="no set is left to measure: other"):
        measure_tagging([Fixed(right())], [other])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"typos": (2.0,)}, "typos are 2.0, but they are shares"), ({"resamples": 0}, "resamples is 0")],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        measure_tagging([Fixed(right())], [SET], **settings)


def test_models_that_tell_nothing_are_refused():
    with pytest.raises(UserError, match="predicts neither intents nor slots"):
        measure_tagging([Fixed([], labels=(), tags=())], [SET])


# ---- the sets


def write(path, rows, header="text\tslots\tintent"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def test_sets_are_found_by_name_and_xsid_language_by_language(tmp_path):
    write(tmp_path / "atis" / "atis_test.tsv", ["go to rome\tO O B-city\tgo"])
    write(tmp_path / "clinc150" / "clinc150_test.tsv", ["hello\tgreet"], header="text\tintent")
    rows = ["de\t\t1\thallo\tO\tgreet", "da\t\t1\thej\tO\tgreet", "de\t\t2\tnach rom\tO B-city\tgo"]
    write(tmp_path / "xsid" / "xsid_test.tsv", rows, header="lang\tdialect\tid\ttext\tslots\tintent")
    found, absent = load_tagging(["tagging"], tmp_path)
    assert [one.key for one in found] == ["atis", "clinc150", "xsid_de", "xsid_da"]
    assert absent == ["snips", "slurp"]
    assert found[0].examples == (Example("go to rome", "go", ("O", "O", "B-city")),)
    assert (found[1].has_labels, found[1].has_tags) == (True, False)
    assert [len(one.examples) for one in load_tagging(["xsid_de"], tmp_path)[0]] == [2]
    with pytest.raises(UserError, match=r"set snips is named, but .* does not exist"):
        load_tagging(["snips"], tmp_path)
    with pytest.raises(UserError, match="its validation part is used for training"):
        load_tagging(["xsid"], tmp_path, part="dev")
    assert not TAGGING.owns("de") and TAGGING.owns("xsid_de-ba") and not TAGGING.owns("sts")


def test_a_table_of_ones_own_is_a_set(tmp_path):
    write(tmp_path / "mine.tsv", ["go to rome\tO O B-city"], header="text\tslots")
    (one,), _ = load_tagging(["tagging"], tmp_path / "mine.tsv")
    assert (one.key, one.has_labels, one.has_tags) == ("mine", False, True)
    with pytest.raises(UserError, match="which goes with --suite tagging alone"):
        load_tagging(["atis"], tmp_path / "mine.tsv")
    write(tmp_path / "bad.tsv", ["go to rome\tO O"], header="text\tslots")
    with pytest.raises(UserError, match=r"row 1: 3 tokens \(separated by blanks\) and 2 tags"):
        load_tagging(["tagging"], tmp_path / "bad.tsv")
    write(tmp_path / "bare.tsv", ["go\tx"], header="text\tclass")
    with pytest.raises(UserError, match="but intent, slots or both are needed"):
        load_tagging(["tagging"], tmp_path / "bare.tsv")
    with pytest.raises(UserError, match="needs its files: give their folder"):
        load_tagging(["tagging"], None)
    with pytest.raises(UserError, match="which has none of atis, snips"):
        load_tagging(["tagging"], tmp_path)


@pytest.mark.real_data
def test_the_real_sets_have_the_rows_that_their_pages_state(real_data):
    counts = {one.key: len(one.examples) for one in load_tagging(["tagging"], real_data)[0]}
    assert {key: counts[key] for key in ("atis", "snips", "clinc150", "slurp")} == {
        "atis": 893,
        "snips": 700,
        "clinc150": 5500,
        "slurp": 2974,
    }
    assert sum(count for key, count in counts.items() if key.startswith("xsid_")) == 14_244
    assert np.isclose(counts["xsid_ja"], 250)
    trained = {one.key: len(one.examples) for one in load_tagging(["atis", "slurp"], real_data, part="train")[0]}
    assert trained == {"atis": 4478, "slurp": 8876}

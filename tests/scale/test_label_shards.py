"""Labels in shards: joined they are those of all texts; whole shards are skipped, damaged ones made again, others refused."""

import json

import pytest

from tain.foundation.errors import UserError
from tain.models.label_lines import LabelLines
from tain.scale.label_shards import LabelRun, label_shard, merge_labels

TEXTS = [f"text number {number}" for number in range(50)]


@pytest.fixture
def run(tmp_path) -> LabelRun:
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS) + "\n")
    return LabelRun(source=str(tmp_path / "texts.txt"), folder=tmp_path / "labels", count=3)


def test_joined_shards_are_the_labels_of_all_texts_in_order(run, tmp_path, hash_labeller):
    made = [label_shard(hash_labeller(), run, number) for number in (3, 1, 2)]
    assert sum(shard.texts for shard in made) == 50
    assert merge_labels(run.folder, tmp_path / "all.jsonl") == 50
    assert (tmp_path / "all.jsonl").read_text().splitlines() == list(LabelLines(hash_labeller(), TEXTS))
    assert [json.loads(line)["text"] for line in (tmp_path / "all.jsonl").read_text().splitlines()] == TEXTS


def test_whole_shards_are_skipped_and_damaged_ones_made_again(run, hash_labeller):
    first = label_shard(hash_labeller(), run, 1)
    again = hash_labeller()
    assert label_shard(again, run, 1).skipped
    assert again.labelled == 0
    whole = first.path.read_bytes()
    first.path.write_bytes(whole[:-3])
    assert not label_shard(again, run, 1).skipped
    assert first.path.read_bytes() == whole


def test_what_does_not_belong_together_is_refused(run, tmp_path, hash_labeller):
    label_shard(hash_labeller(), run, 1)
    with pytest.raises(UserError, match=r"shard 1/3 in .* was made otherwise \(the weights of 'hash labels' differ\)"):
        label_shard(hash_labeller(weights="other"), run, 1)
    with pytest.raises(UserError, match="holds shards of a run with 3 shards, not 4"):
        label_shard(hash_labeller(), LabelRun(source=run.source, folder=run.folder, count=4), 1)
    with pytest.raises(UserError, match="lacks shards 2 to 3 of 3: make them with tain label --shard"):
        merge_labels(run.folder, tmp_path / "all.jsonl")
    assert not (tmp_path / "all.jsonl").exists()

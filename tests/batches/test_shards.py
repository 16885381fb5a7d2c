"""Shards equal reading and tokenising text by text, for files of any size, and refuse foreign files."""

import json
import resource
import sys

import numpy as np
import pytest

from tain.batches import shards as module
from tain.batches.shards import Shards, Sources, TokenStream, dtype_for, open_shards, token_batches, tokenised
from tain.batches.tokenizing import fingerprint
from tain.foundation.errors import UserError
from tain.text.readers import read_sentences
from tain.text.records import Sentence


@pytest.fixture
def tokenizer(tiny_tokenizer):
    return tiny_tokenizer()


@pytest.fixture
def corpus(tmp_path, sentences):
    """Two files: three documents in one (several empty lines between two of them), one in the other."""
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_text("\n".join([*sentences[:3], "", *sentences[3:4], "", "  ", "", *sentences[4:6]]) + "\n\n", encoding="utf-8")
    second.write_text("\n".join(sentences[6:9]), encoding="utf-8")
    return Sources((str(first), str(second)))


def naive_stream(sources, tokenizer):
    ids = []
    for text in sources.texts():
        ids += [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.sep_token_id]
    return ids


@pytest.mark.parametrize("shard_tokens", [7, 50, 10**9])
def test_the_tokens_are_those_of_every_text_in_order_with_a_separator_behind_each(corpus, tokenizer, tmp_path, shard_tokens):
    shards = tokenised(tmp_path / "shards", corpus, tokenizer, shard_tokens=shard_tokens)
    expected = naive_stream(corpus, tokenizer)
    assert shards.tokens[:].tolist() == expected
    assert len(shards.tokens) == len(expected)
    assert len(shards.tokens.parts) == -(-len(expected) // shard_tokens)


@pytest.mark.parametrize("shard_tokens", [7, 10**9])
def test_a_sentence_is_a_line_without_its_separator(corpus, tokenizer, tmp_path, sentences, shard_tokens):
    shards = tokenised(tmp_path / "shards", corpus, tokenizer, shard_tokens=shard_tokens)
    expected = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in sentences[:9]]
    assert [row.tolist() for row in shards.sentences] == expected
    assert shards.sentences[-1].tolist() == expected[-1]
    assert [row.tolist() for row in shards.sentences[2:4]] == expected[2:4]
    assert shards.sentences.lengths().tolist() == [len(row) for row in expected]
    with pytest.raises(IndexError, match="there is no sentence 9: there are 9"):
        shards.sentences[9]


def test_documents_begin_after_empty_lines_and_with_every_file(corpus, tokenizer, tmp_path):
    shards = tokenised(tmp_path / "shards", corpus, tokenizer)
    assert shards.document_starts.tolist() == [0, 3, 4, 6]
    assert shards.documents == 4


def test_batches_change_nothing(corpus, tokenizer):
    def joined(batch_texts):
        parts = zip(*token_batches(corpus.sentences(), tokenizer, batch_texts=batch_texts), strict=True)
        return [np.concatenate(part) for part in parts]

    for one, many in zip(joined(2), joined(1000), strict=True):
        assert np.array_equal(one, many)


def test_slices_of_a_stream_in_parts_are_those_of_the_whole(rng):
    whole = rng.integers(0, 1000, size=100).astype(np.uint16)
    stream = TokenStream([whole[:30], whole[30:31], whole[31:90], whole[90:]])
    for start in range(0, 101, 3):
        for stop in (start, start + 1, start + 40, 100, 250):
            assert np.array_equal(stream[start:stop], whole[start:stop])
    assert stream[5:8].dtype == np.uint16


def test_two_bytes_a_token_while_the_vocabulary_fits():
    assert dtype_for(2**16) == np.uint16
    assert dtype_for(2**16 + 1) == np.uint32


def test_text_is_cut_once(corpus, tokenizer, tmp_path, monkeypatch):
    first = tokenised(tmp_path / "shards", corpus, tokenizer)
    monkeypatch.setattr(module, "_write", lambda *_: pytest.fail("cut again"))
    again = tokenised(tmp_path / "shards", corpus, tokenizer)
    assert again.facts == first.facts
    assert isinstance(again, Shards)


def test_a_call_that_cut_or_padded_texts_does_not_change_the_fingerprint(tokenizer, tiny_tokenizer):
    before = fingerprint(tokenizer)
    tokenizer(["a red house", "glass"], truncation=True, max_length=3, padding=True)
    assert fingerprint(tokenizer) == before
    assert fingerprint(tiny_tokenizer(pad_id=1)) != before


def test_shards_of_another_tokenizer_are_refused(corpus, tokenizer, tmp_path):
    tokenised(tmp_path / "shards", corpus, tokenizer)
    tokenizer.add_tokens(["mirrorlike"])
    with pytest.raises(UserError, match=r"were made with another tokenizer \(120 tokens; this one has 121\): name another folder"):
        tokenised(tmp_path / "shards", corpus, tokenizer)


def test_shards_of_other_texts_are_refused(corpus, tokenizer, tmp_path):
    tokenised(tmp_path / "shards", corpus, tokenizer)
    with pytest.raises(UserError, match=r"were made from other texts or columns \(from first\.txt, second\.txt\)"):
        tokenised(tmp_path / "shards", Sources(corpus.paths[:1]), tokenizer)
    (tmp_path / "second.txt").write_text("something else", encoding="utf-8")
    with pytest.raises(UserError, match="were made from other texts"):
        tokenised(tmp_path / "shards", corpus, tokenizer)


def test_a_moved_corpus_is_the_same_corpus(corpus, tokenizer, tmp_path):
    tokenised(tmp_path / "shards", corpus, tokenizer)
    (tmp_path / "elsewhere").mkdir()
    moved = [tmp_path / "elsewhere" / name for name in ("first.txt", "second.txt")]
    for path in moved:
        (tmp_path / path.name).rename(path)
    assert len(tokenised(tmp_path / "shards", Sources(tuple(map(str, moved))), tokenizer).sentences) == 9


def test_half_of_a_folder_is_refused(corpus, tokenizer, tmp_path):
    folder = tmp_path / "shards"
    tokenised(folder, corpus, tokenizer, shard_tokens=50)
    whole = (folder / "tokens-00001.bin").read_bytes()
    (folder / "tokens-00001.bin").write_bytes(whole[:-2])
    with pytest.raises(UserError, match=r"tokens-00001\.bin' has \d+ bytes instead of 100: remove its folder"):
        open_shards(folder)
    (folder / "tokens-00001.bin").unlink()
    with pytest.raises(UserError, match="has 0 bytes instead of 100"):
        open_shards(folder)
    (folder / "shards.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(UserError, match="have format 99, but this tain reads 1"):
        open_shards(folder)
    (folder / "shards.json").unlink()
    with pytest.raises(UserError, match=r"holds no finished shards \(shards\.json is missing\)"):
        tokenised(folder, corpus, tokenizer)


def test_a_disk_full_in_mid_shard_leaves_nothing(corpus, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python 3.11.2 keeps a .pyc that the limit cut off
    with_more = tmp_path / "more.txt"
    with_more.write_text("\n".join(["the sea is deep and the stars are far away"] * 5000), encoding="utf-8")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))  # no file may grow beyond this: the system refuses as a full disk does
    try:
        with pytest.raises(UserError, match=r"shards cannot be written to .* and were removed: free disk space, or name a folder"):
            tokenised(tmp_path / "shards", Sources((str(with_more),)), tokenizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.txt", "more.txt", "second.txt"]


def test_a_text_that_cannot_be_read_leaves_nothing(tokenizer, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"a red house\n" * 3 + b"caf\xe9\n")
    with pytest.raises(UserError, match="line 4 is not UTF-8"):
        tokenised(tmp_path / "shards", Sources((str(tmp_path / "bad.txt"),)), tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.txt"]


def test_standard_input_is_refused():
    with pytest.raises(UserError, match=r"'-' \(standard input\), which cannot be read a second time: save them to a file"):
        Sources(("-",))


def test_long_texts_are_cut_into_tokens_few_at_a_time(tokenizer, monkeypatch):
    texts = [Sentence("glass and sand " * count, False) for count in (1, 20, 1, 1, 9)]
    together = list(token_batches(texts, tokenizer))
    monkeypatch.setattr(module, "_BATCH_CHARACTERS", 100)
    alone = list(token_batches(texts, tokenizer))
    assert [len(batch[1]) for batch in together] == [5]
    assert [len(batch[1]) for batch in alone] == [2, 3]
    for index in range(3):
        np.testing.assert_array_equal(np.concatenate([batch[index] for batch in alone]), together[0][index])


# where documents begin, as the readers tell


def test_rows_of_a_table_are_documents_of_their_own(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("text\none\n\ntwo\n", encoding="utf-8")
    assert [tuple(sentence) for sentence in read_sentences(path)] == [("one", True), ("two", True)]


def test_a_column_groups_rows_into_documents(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("page\ttext\n1\ta\n1\tb\n2\tc\n2\t \n2\td\n1\te\n", encoding="utf-8")
    found = [tuple(sentence) for sentence in read_sentences(path, column="text", document_column="page")]
    assert found == [("a", True), ("b", False), ("c", True), ("d", False), ("e", True)]
    with pytest.raises(UserError, match="has no column 'pages': name one of 'page', 'text'"):
        read_sentences(path, column="text", document_column="pages")


def test_plain_text_has_no_column_of_documents(tmp_path):
    (tmp_path / "a.txt").write_text("one\n", encoding="utf-8")
    with pytest.raises(UserError, match="is read as plain text, which has no column 'page'"):
        read_sentences(tmp_path / "a.txt", document_column="page")


@pytest.mark.real_data
def test_the_corpus_has_the_documents_that_its_readme_counts(real_data):
    path = real_data.parent / "corpus" / "valid_simplewiki.txt.xz"
    if not path.exists():
        pytest.skip(f"the corpus is not at {path.parent}")
    begins = [sentence.begins_document for sentence in read_sentences(path)]
    assert (sum(begins), len(begins)) == (821, 2570)


@pytest.mark.parametrize(
    "change",
    [
        {"number_type": "float64"},
        {"number_type": ["uint16"]},
        {"sentences": -1},
        {"sentences": 10**12},
        {"shards": [["../../notes.txt", 5]]},
        {"shards": [["tokens-00000.bin", -5]]},
        {"shards": [["tokens-00000.bin"]]},
        {"shards": []},
        {"shards": "tokens-00000.bin"},
        {"sources": []},
        {"separator": None},
        {"documents": 0},
    ],
    ids=str,
)
def test_every_field_of_shards_is_checked(change, corpus, tokenizer, tmp_path):
    tokenised(tmp_path / "shards", corpus, tokenizer)
    path = tmp_path / "shards" / "shards.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=r"damaged shards\.json: remove them|has \d+ bytes instead of"):
        open_shards(tmp_path / "shards")


@pytest.mark.parametrize("file", ["sentences.bin", "documents.bin"])
def test_places_that_are_none_are_refused(file, corpus, tokenizer, tmp_path):
    tokenised(tmp_path / "shards", corpus, tokenizer)
    indices = np.fromfile(tmp_path / "shards" / file, dtype=np.int64)
    for wrong in (indices[::-1].copy(), indices + 1):
        (tmp_path / "shards" / file).write_bytes(wrong.tobytes())
        with pytest.raises(UserError, match=f"are damaged: remove them to rebuild them .{file} has invalid"):
            open_shards(tmp_path / "shards")


def test_a_link_among_shards_is_refused(corpus, tokenizer, tmp_path):
    tokenised(tmp_path / "shards", corpus, tokenizer)
    part = tmp_path / "shards" / "tokens-00000.bin"
    part.rename(tmp_path / "elsewhere.bin")
    part.symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(UserError, match=r"is a link to .*, and links inside such a folder are not followed"):
        open_shards(tmp_path / "shards")

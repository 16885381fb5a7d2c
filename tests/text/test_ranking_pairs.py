"""Ranking pairs from tables: several correct answers, negatives, labels, and invalid input."""

import json

import pytest

from tain.foundation.errors import UserError
from tain.text.ranking_pairs import read_ranking_examples, read_ranking_pairs
from tain.text.records import RankingExample


@pytest.fixture
def table(tmp_path):
    def write(name, *lines):
        path = tmp_path / name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write


def test_rows_of_one_context_are_one_example_with_several_right_answers(table):
    path = table("pairs.tsv", "context\tanswer", "hi\thello", "bye\tso long", "hi\tgood day", "hi\thello")
    assert read_ranking_examples(path) == [RankingExample("hi", ("hello", "good day")), RankingExample("bye", ("so long",))]


def test_two_columns_of_any_name_need_no_names_and_more_do(table):
    assert read_ranking_examples(table("two.csv", "q,a", "hi,hello")) == [RankingExample("hi", ("hello",))]
    three = table("three.tsv", "id\tq\ta", "1\thi\thello")
    assert read_ranking_examples(three, columns=("q", "a")) == [RankingExample("hi", ("hello",))]
    with pytest.raises(UserError, match=r"has 3 columns \('id', 'q', 'a'\) and nothing is guessed: name .* with --columns"):
        read_ranking_examples(three)


def test_negatives_are_lists_in_jsonl_and_json_in_tsv(table):
    row = {"context": "hi", "answer": ["hello", "hey"], "negatives": ["no", "hello"]}
    expected = [RankingExample("hi", ("hello", "hey"), ("no",))]  # a right answer is no negative
    assert read_ranking_examples(table("a.jsonl", json.dumps(row)), negatives="negatives") == expected
    tsv = table("a.tsv", "context\tanswer\tnegatives", 'hi\thello\t["no", "never"]', "bye\tso long\t")
    found = read_ranking_examples(tsv, negatives="negatives")
    assert [example.negatives for example in found] == [("no", "never"), ()]


def test_parquet_gives_the_same_records(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"context": ["hi"], "answer": ["hello"], "wrong": [["no", "never"]]}), path)
    assert read_ranking_examples(path, negatives="wrong") == [RankingExample("hi", ("hello",), ("no", "never"))]


def test_labels_tell_right_from_wrong_and_contexts_without_a_right_answer_are_left_out(table):
    path = table("l.tsv", "question\tlabel\tanswer", "q1\t0\tno", "q1\t1\tyes", "q2\t0\tnever")
    assert read_ranking_examples(path, columns=("question", "answer"), label="label") == [RankingExample("q1", ("yes",), ("no",))]


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (["context", "hi"], {}, r"has one column \('context'\), but a pair needs two: a context and its correct answer"),
        (["context\tanswer", "hi\thello", "bye\t "], {}, r"line 3 has an empty answer in column 'answer': fill it in or remove the row"),
        (["context\tanswer", "\thello"], {}, "line 2 has an empty context in column 'context'"),
        (["context\tanswer"], {}, "but no rows: give a table with pairs below its first line"),
        (["context\tanswer", "hi\thello"], {"negatives": "wrong"}, "has no column 'wrong': name one of 'context', 'answer'"),
        (["context\tanswer", "hi\thello"], {"columns": ("context", "context")}, "but two are the same"),
        (
            ["context\tanswer\tn", "hi\thello\tno"],
            {"negatives": "n"},
            r'column \'n\' is not a list of negatives: write it as \["one", "other"\]',
        ),
        (["context\tanswer\tl", "hi\thello\tyes"], {"label": "l"}, "holds 'yes': give 1 if the answer is correct and 0 if not"),
        (["context\tanswer\tl", "hi\thello\t0"], {"label": "l"}, "has no correct answer: column 'l' is 0 in all 1 rows"),
    ],
)
def test_what_cannot_be_pairs_is_refused(table, lines, options, message):
    with pytest.raises(UserError, match=message):
        read_ranking_examples(table("pairs.tsv", *lines), **options)


@pytest.mark.parametrize("key", ["context", "answer", "negatives"])
def test_cells_that_are_not_text_are_refused_in_every_column(table, key):
    row = {"context": "hi", "answer": "hello", "negatives": ["no"]}
    for bad, message in (("a\0b", "has a NUL character"), ("\ud800", "has half of a surrogate pair")):
        path = table("bad.jsonl", json.dumps({**row, key: [bad] if key == "negatives" else bad}))
        with pytest.raises(UserError, match=f"line 1, column '{key}' {message}"):
            read_ranking_examples(path, negatives="negatives")


def test_rows_are_read_as_they_stand(table):
    path = table("rows.tsv", "context\tanswer", "hi\thello", "bye\tso long", "hi\tgood day", "hi\thello")
    assert read_ranking_pairs(path) == [("hi", "hello"), ("bye", "so long"), ("hi", "good day"), ("hi", "hello")]
    lists = table("lists.jsonl", json.dumps({"q": "hi", "a": ["hello", "hey"]}))
    assert read_ranking_pairs(lists) == [("hi", "hello"), ("hi", "hey")]
    with pytest.raises(UserError, match="but no rows"):
        read_ranking_pairs(table("none.tsv", "context\tanswer"))


def test_plain_text_and_numbers_are_refused(table):
    with pytest.raises(UserError, match="is read as plain text, but pairs need two columns, context and answer"):
        read_ranking_examples(table("pairs.txt", "hi hello"))
    with pytest.raises(UserError, match="column 'answer' holds int '3', not text"):
        read_ranking_examples(table("n.jsonl", '{"context": "hi", "answer": 3}'))

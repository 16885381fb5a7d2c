"""``tain rank`` as it is typed: train, score, search, evaluate, and one line for what cannot work."""

import json
import shutil

import command_line
import pytest

from tain.foundation.errors import UserError

SMALL = ("--batch-contexts", 8, "--epochs", 1, "--context-tokens", 20, "--candidate-tokens", 16, "--held-out", 4)
HERE = ("--device", "cpu", "--dtype", "float32", "--quiet")


def run(*arguments):
    return command_line.run("rank", *arguments)


@pytest.fixture(scope="module")
def pairs_file(sentences, tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    rows = [f"{text} {other}\t{text}" for text in sentences for other in ("a", "b", "c", "d")]
    path.write_text("\n".join(["context\tanswer", *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def ranker_folder(bert_folder, pairs_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rank") / "ranker"
    assert run("train", bert_folder, pairs_file, "-o", folder, "--codes", 3, *SMALL, *HERE) == 0
    return folder


@pytest.fixture
def texts(tmp_path):
    def write(name, lines):
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


def refused(capsys, *arguments):
    assert run(*arguments) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    return said.err


def test_training_shows_what_it_gained(bert_folder, pairs_file, tmp_path, capsys):
    assert run("train", bert_folder, pairs_file, "-o", tmp_path / "bi", "--type", "bi", *SMALL, *HERE) == 0
    said = capsys.readouterr().out
    assert "untrained" in said
    assert "R@1" in said
    assert "MRR" in said
    assert "44 pairs of 44 contexts and 12 candidates" in said
    assert "saved in" in said


def test_training_results_are_one_json_object(bert_folder, pairs_file, tmp_path, capsys):
    more = ("--device", "cpu", "--dtype", "float32", "--json")
    assert run("train", bert_folder, pairs_file, "-o", tmp_path / "cross", "--type", "cross", "--negatives", 2, *SMALL, *more) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["type"], found["counts"]["held_out"], found["before"].keys()) == ("cross", 4, found["after"].keys())


def test_scores_are_lines_and_may_be_json(ranker_folder, pairs_file, tmp_path, capsys):
    assert run("score", ranker_folder, pairs_file, *HERE) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "context\tanswer\tscore"
    assert len(lines) == 49
    assert float(lines[1].split("\t")[2])
    assert run("score", ranker_folder, pairs_file, "--json", "-o", tmp_path / "scores.jsonl", *HERE) == 0
    first = json.loads((tmp_path / "scores.jsonl").read_text().splitlines()[0])
    assert first["score"] == pytest.approx(float(lines[1].split("\t")[2]), rel=1e-4)


def test_scores_keep_the_tables_rows(ranker_folder, texts, capsys):
    rows = ["a mirror\tglass", "the sea\tsand", "a mirror\tthe sun", "a mirror\tglass"]
    assert run("score", ranker_folder, texts("pairs.tsv", ["context\tanswer", *rows]), "--trust-remote-code", *HERE) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.rpartition("\t")[0] for line in lines] == rows
    assert lines[0] == lines[3]


def test_names_with_brackets_are_shown_as_they_are(bert_folder, pairs_file, tmp_path, capsys):
    folder = tmp_path / "run[bold]one[/]"
    assert run("train", bert_folder, pairs_file, "-o", folder, "--codes", 3, *SMALL, *HERE) == 0
    assert f"saved in {folder}" in capsys.readouterr().out
    assert run("evaluate", folder, bert_folder, "--pairs", pairs_file, "--resamples", 5, "--candidates", 4, "--no-latency", *HERE) == 0
    assert f"the difference to {folder}" in capsys.readouterr().out


def test_candidates_are_indexed_once_then_searched_changed_and_deleted(ranker_folder, sentences, texts, tmp_path, capsys):
    asked, answers = texts("asked.txt", sentences[:2]), texts("answers.txt", sentences[:8])
    base = ("search", ranker_folder, asked, "--index", tmp_path / "index", "--json", *HERE)
    assert run(*base, "--candidates", answers, "-k", 3) == 0
    first = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["context"] for entry in first] == sentences[:2]
    assert all(len(entry["hits"]) == 3 for entry in first)
    assert run(*base, "-k", 3) == 0  # without the file
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == first
    answers.write_text("\n".join(sentences[4:12]) + "\n")
    assert f"error: candidate file '{answers}' differs from the texts that index" in refused(capsys, *base, "--candidates", answers)
    assert run(*base, "--candidates", answers, "--update") == 0
    capsys.readouterr()
    assert run(*base, "--candidates", answers, "-k", 100) == 0
    hits = json.loads(capsys.readouterr().out.splitlines()[0])["hits"]
    assert sorted(hit["text"] for hit in hits) == sorted(sentences[4:12])
    assert run(*base, "--delete", texts("gone.txt", sentences[4:10]), "-k", 100) == 0
    hits = json.loads(capsys.readouterr().out.splitlines()[0])["hits"]
    assert sorted(hit["text"] for hit in hits) == sorted(sentences[10:12])


def test_hits_are_reordered_by_a_second_ranker_and_listed_to_read(bert_folder, ranker_folder, sentences, texts, tmp_path, capsys):
    asked, answers = texts("asked.txt", sentences[:2]), texts("answers.txt", sentences)
    common = ("--index", tmp_path / "index", "--candidates", answers, "-k", 2, *HERE)
    assert run("search", bert_folder, asked, *common, "--rerank", ranker_folder, "--depth", 5) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == sentences[0]
    assert len(said) == 6
    assert said[1].split()[0] == "1"


def test_rankers_are_compared_with_what_a_query_costs(bert_folder, ranker_folder, pairs_file, tmp_path, capsys):
    common = ("evaluate", bert_folder, ranker_folder, "--pairs", pairs_file, "--resamples", 20, *HERE)
    out = tmp_path / "report.json"
    assert run(*common, "--candidates", 6, "--latency", 10, "--latency", 2000, "-o", out) == 0
    said = capsys.readouterr().out
    assert "6 sampled" in said
    assert "ms, 2k" in said
    report = json.loads(out.read_text())
    assert [ranker["type"] for ranker in report["rankers"]] == ["bi", "poly"]
    assert report["queries"] == 48
    assert run(*common, "--pool", "--no-latency") == 0
    assert "whole pool of 12" in capsys.readouterr().out


def test_an_index_of_another_model_or_version_is_refused(bert_folder, ranker_folder, sentences, texts, tmp_path, capsys):
    asked, index = texts("asked.txt", sentences[:2]), tmp_path / "index"
    assert run("search", ranker_folder, asked, "--index", index, "--candidates", texts("answers.txt", sentences), *HERE) == 0
    capsys.readouterr()
    assert "was made by another model" in refused(capsys, "search", bert_folder, asked, "--index", index, *HERE)
    other = tmp_path / "ranker"
    shutil.copytree(ranker_folder, other)
    about = json.loads((index / "index.json").read_text())
    (index / "index.json").write_text(json.dumps({**about, "model": str(other), "fingerprint": "0" * 16}))
    assert "was made by another version of this model" in refused(capsys, "search", other, asked, "--index", index, *HERE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "MODEL", "ONE", "-o", "OUT"), "has one column ('text'), but a pair needs two"),
        (("train", "MODEL", "EMPTY", "-o", "OUT"), "line 2 has an empty answer in column 'answer'"),
        (("train", "MODEL", "PAIRS", "-o", "OUT", "--codes", 0), "codes is 0, but a context needs a vector"),
        (("train", "MODEL", "PAIRS", "-o", "OUT", "--batch-contexts", 100), "fewer than a batch of 100"),
        (("train", "MODEL", "PAIRS", "-o", "OUT", "--teacher", "./nowhere"), "'./nowhere' does not exist"),
        (("evaluate", "MODEL", "--pairs", "PAIRS", "--candidates", 20), "fewer than the 20 of a list"),
        (("evaluate", "MODEL", "--pairs", "PAIRS", "--pool", "--listed"), "--pool and --listed are given"),
        (("evaluate", "MODEL", "--pairs", "PAIRS", "--listed"), "no context has negatives"),
        (("search", "MODEL", "ASKED", "--index", "OUT"), "does not exist: make it by giving --candidates FILE"),
        (("search", "MODEL", "ASKED", "--index", "OUT", "--update"), "--update syncs an index with candidates"),
        (("search", "MODEL", "ASKED", "--index", "OUT", "-k", 0), "k is 0: give 1 or more"),
        (("search", "MODEL", "ASKED", "--index", "OUT", "--candidates", "ASKED", "--probes", 0), "probes is 0: give 1 or more"),
        (("search", "MODEL", "ASKED", "--index", "OUT", "--depth", 5), "depth is 5, which only applies to a second ranker: give --rerank"),
        (("train", "MODEL", "ASKED", "--oops", 5), "(see tain rank train --help)"),
        (("search", "MODEL", "ASKED", "--index", "OUT", "--rerank", "MODEL", "--depth", 5), "depth is 5, fewer than the 10 hits"),
        (("score", "MODEL", "ONE"), "has one column ('text'), but a pair needs two"),
    ],
)
def test_what_cannot_work_is_one_line_and_code_2(arguments, message, bert_folder, pairs_file, texts, tmp_path, capsys):
    indices = {
        "MODEL": bert_folder,
        "PAIRS": pairs_file,
        "OUT": tmp_path / "out",
        "ONE": texts("one.tsv", ["text", "hello"]),
        "EMPTY": texts("empty.tsv", ["context\tanswer", "hello\t "]),
        "ASKED": texts("asked.txt", ["hello"]),
    }
    assert message in refused(capsys, *(indices.get(argument, argument) for argument in arguments))
    assert not (tmp_path / "out").exists()


def test_a_search_without_its_index_is_refused_before_the_model_is_loaded(ranker_folder, texts, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tain.loading.load_ranker", lambda *_, **__: pytest.fail("the model was loaded"))
    said = refused(capsys, "search", ranker_folder, texts("asked.txt", ["hello"]), "--index", tmp_path / "nowhere", *HERE)
    assert "does not exist: make it by giving --candidates FILE" in said


def test_a_search_that_was_cut_off_while_indexing_goes_on_by_the_same_command(
    ranker_folder, sentences, texts, tmp_path, capsys, monkeypatch
):
    base = ("search", ranker_folder, texts("asked.txt", sentences[:2]), "--index", tmp_path / "index", "--json", *HERE)
    candidates = ("--candidates", texts("answers.txt", sentences))

    def cut_off(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tain.ranking.index.CandidateIndex.append", cut_off)
        assert run(*base, *candidates) == 130
    capsys.readouterr()
    assert "lacks candidates" in refused(capsys, *base)
    assert run(*base, *candidates, "-k", 100) == 0
    assert len(json.loads(capsys.readouterr().out.splitlines()[0])["hits"]) == 12
    assert run(*base) == 0


def test_cut_candidates_and_contexts_are_told_by_both_rankers(bert_folder, ranker_folder, sentences, texts, tmp_path, capsys):
    long = texts("long.txt", [" ".join(sentences[:4]), "short"])
    common = ("--index", tmp_path / "index", "--candidates", long, "-k", 1, "--depth", 2, *HERE)
    assert run("search", ranker_folder, long, *common, "--rerank", bert_folder) == 0
    said = capsys.readouterr().err
    assert f"1 candidates are longer than the limit of model '{ranker_folder}' and were cut" in said
    assert f"1 contexts are longer than the limit of model '{ranker_folder}' and were cut" in said
    assert f"1 candidates are longer than the limit of model '{bert_folder}'" in said


def test_without_faiss_nothing_is_indexed_first(ranker_folder, texts, tmp_path, capsys, monkeypatch):
    def absent():
        raise UserError("no FAISS")

    monkeypatch.setattr("tain.ranking.approximate._faiss", absent)
    asked, index = texts("asked.txt", ["hello"]), tmp_path / "index"
    assert "no FAISS" in refused(capsys, "search", ranker_folder, asked, "--index", index, "--candidates", asked, "--probes", 1, *HERE)
    assert not index.exists()


def test_a_second_ranker_that_cannot_be_loaded_is_refused_before_anything_is_indexed(ranker_folder, texts, tmp_path, capsys):
    asked, index, broken = texts("asked.txt", ["hello"]), tmp_path / "index", tmp_path / "broken"
    shutil.copytree(ranker_folder, broken)
    (broken / "head.safetensors").write_bytes((broken / "head.safetensors").read_bytes()[:20])
    said = refused(
        capsys, "search", ranker_folder, asked, "--index", index, "--candidates", asked, "-k", 1, "--rerank", broken, "--depth", 2, *HERE
    )
    assert "has no matching head" in said
    assert not index.exists()


def test_a_cross_encoder_is_not_searched_with(bert_folder, pairs_file, texts, tmp_path, capsys):
    cross = tmp_path / "cross"
    assert run("train", bert_folder, pairs_file, "-o", cross, "--type", "cross", "--negatives", 1, *SMALL, *HERE) == 0
    capsys.readouterr()
    message = refused(
        capsys, "search", cross, texts("asked.txt", ["hello"]), "--index", tmp_path / "i", "--candidates", texts("c.txt", ["x"])
    )
    assert "is a cross-encoder, which has no vectors to search" in message


def test_baselines_stand_beside_rankers(bert_folder, pairs_file, tmp_path, capsys):
    out = tmp_path / "report.json"
    models = ("lexical", "characters", f"static:{bert_folder}", bert_folder)
    assert run("evaluate", *models, "--pairs", pairs_file, "--resamples", 5, "--candidates", 4, "--no-latency", "-o", out, *HERE) == 0
    assert "tf-idf" in capsys.readouterr().out
    assert [(ranker["name"], ranker["type"]) for ranker in json.loads(out.read_text())["rankers"][:3]] == [
        ("lexical", "tf-idf"),
        ("characters", "tf-idf"),
        (f"static:{bert_folder}", "static"),
    ]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("train", "lexical", "PAIRS", "-o", "OUT"), "model is 'lexical', a baseline that only tain evaluate and tain rank evaluate take"),
        (("score", "static:tain-mini", "PAIRS"), "model is 'static:tain-mini', a baseline"),
        (("evaluate", "static:", "--pairs", "PAIRS"), "names no model with input embeddings"),
    ],
)
def test_baselines_are_only_evaluated(command, message, pairs_file, tmp_path, capsys):
    names = {"PAIRS": pairs_file, "OUT": tmp_path / "out"}
    assert message in refused(capsys, *(names.get(part, part) for part in command))


def test_an_encoder_of_the_fast_recipe_is_searched_as_it_is(bert_folder, pairs_file, sentences, texts, tmp_path, capsys):
    given = texts("sentences.txt", [f"{first} while {second}" for first in sentences for second in sentences[:4]])
    mirrored = ("--recipe", "fast", "--max-tokens", 40, "--held-out", 4, *HERE)
    assert command_line.run("mirror", bert_folder, given, "-o", tmp_path / "fast", *mirrored) == 0
    pool = texts("pool.txt", sentences)
    search = ("search", tmp_path / "fast", pool, "--index", tmp_path / "index", "-k", 1, "--json", *HERE)
    capsys.readouterr()
    assert run(*search, "--candidates", pool) == 0
    hits = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [hit["hits"][0]["text"] for hit in hits] == sentences
    assert run("score", tmp_path / "fast", pairs_file, *HERE) == 0
    assert run("evaluate", tmp_path / "fast", "--pairs", pairs_file, "--candidates", 4, "--no-latency", *HERE) == 0
    assert "training changes its vectors" in refused(
        capsys, "train", tmp_path / "fast", pairs_file, "-o", tmp_path / "ranker", *SMALL, *HERE
    )
    other = ("search", bert_folder, *search[2:])
    assert "index" in refused(capsys, *other)


# ---- an index with ids and metadata


@pytest.fixture
def table(sentences, tmp_path):
    def write(rows):
        path = tmp_path / "table.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


def rows_of(sentences):
    return [
        {"id": number, "text": text, "year": 2010 + number, "lang": "en" if number % 2 else "de"} for number, text in enumerate(sentences)
    ]


def counts(capsys):
    return json.loads(capsys.readouterr().out)


def test_an_index_takes_ids_and_metadata_and_is_searched_by_filter(bert_folder, sentences, table, texts, tmp_path, capsys):
    folder, given = tmp_path / "index", rows_of(sentences)
    add = ("index", folder, "--model", bert_folder, "--id-column", "id", "--column", "text", "--keep", "year", "lang", "--json", *HERE)
    assert run(*add, "--candidates", table(given)) == 0
    found = {"folder": str(folder), "added": 12, "replaced": 0, "unchanged": 0, "deleted": 0, "candidates": 12}
    assert counts(capsys) == found
    search = ("search", bert_folder, texts("asked.txt", sentences[:1]), "--index", folder, "-k", 20, *HERE)
    assert run(*search, "--json", "--filter", "year>=2015 and lang=en") == 0
    hits = counts(capsys)["hits"]
    assert sorted(hit["id"] for hit in hits) == ["11", "5", "7", "9"]
    assert {hit["id"]: hit["metadata"] for hit in hits}["5"] == {"lang": "en", "year": 2015}
    assert run(*search, "--filter", "id=5") == 0
    assert "no candidate of index" in capsys.readouterr().err
    given[5] |= {"text": "another text", "year": 1999}
    assert run(*add, "--candidates", table(given[4:6]), "--delete-where", "year>2018") == 0
    assert counts(capsys) == found | {"added": 0, "replaced": 1, "unchanged": 1, "deleted": 3, "candidates": 9}
    assert run(*search, "--filter", "lang in (en, de) and year=1999") == 0
    assert "5  another text" in capsys.readouterr().out
    assert run("index", folder, "--delete-ids", texts("ids.txt", ["0", "1", "x"]), "--json") == 0
    assert counts(capsys) == found | {"added": 0, "deleted": 2, "candidates": 7}
    assert run(*add, "--candidates", table(given[4:6]), "--delete-missing") == 0
    assert counts(capsys) == found | {"added": 0, "unchanged": 2, "deleted": 5, "candidates": 2}
    size = (folder / "vectors.bin").stat().st_size
    assert run("index", folder, "--compact", "--json") == 0
    assert counts(capsys) == found | {"added": 0, "candidates": 2, "removed rows": 11}
    assert (folder / "vectors.bin").stat().st_size == size * 2 // 13
    assert run(*add, "--candidates", table(given[4:6])) == 0
    assert counts(capsys) == found | {"added": 0, "unchanged": 2, "candidates": 2}
    assert "has ids and metadata, which this command would lose" in refused(
        capsys, *search, "--candidates", texts("c.txt", ["x"]), "--update"
    )


def test_an_index_goes_to_faiss_and_back(bert_folder, sentences, table, texts, tmp_path, capsys):
    first, second, path = tmp_path / "first", tmp_path / "second", tmp_path / "x.faiss"
    columns = ("--id-column", "id", "--column", "text")
    given = ("--candidates", table(rows_of(sentences)), *columns, "--keep", "year")
    assert run("index", first, "--model", bert_folder, *given, "--to-faiss", path, *HERE) == 0
    lines = [json.loads(line) for line in (tmp_path / "x.faiss.jsonl").read_text().splitlines()]
    assert lines[3] == {"text": sentences[3], "id": "3", "metadata": {"year": 2013}}
    back = ("index", second, "--model", bert_folder, "--from-faiss", path, *columns)
    assert run(*back, "--candidates", tmp_path / "x.faiss.jsonl", "--metadata-column", "metadata", *HERE) == 0
    capsys.readouterr()
    found = []
    for folder in (first, second):
        search = ("search", bert_folder, texts("asked.txt", sentences[:2]), "--index", folder, "--json", *HERE)
        assert run(*search, "--filter", "year>2011") == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1]
    assert "already exists" in refused(capsys, "index", first, "--to-faiss", path)
    shutil.rmtree(second)
    swapped = table(rows_of(sentences[::-1]))
    assert "vector 0 is not the one that" in refused(capsys, *back, "--candidates", swapped, *HERE)
    assert "has 12 vectors for 11 candidates" in refused(capsys, *back, "--candidates", table(rows_of(sentences[1:])), *HERE)
    assert not second.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing is asked for: give --candidates, --delete-ids, --delete-where, --compact or --to-faiss"),
        (("--candidates", "TABLE"), "--candidates are given without a model"),
        (("--model", "MODEL"), "--model concerns candidates to add, but none are given"),
        (("--from-faiss", "TABLE"), "--from-faiss concerns candidates to add"),
        (("--delete-where", "year>"), "it ends where a value is expected"),
        (("--delete-where", "year>1"), "does not exist: make it"),
        (("--model", "MODEL", "--candidates", "TABLE"), "name the one that holds the texts with --column"),
        (("--model", "MODEL", "--candidates", "TABLE", "--column", "text", "--id-column", "lang"), "id 'de' is given twice"),
        (("--model", "MODEL", "--candidates", "TABLE", "--column", "text", "--keep", "nothing"), "has no column 'nothing'"),
        (("--model", "MODEL", "--candidates", "TABLE", "--column", "text", "--from-faiss", "TABLE"), "FAISS file"),
        (("--model", "./nowhere", "--candidates", "TABLE", "--column", "text"), "'./nowhere' does not exist"),
    ],
)
def test_an_index_command_that_cannot_work_is_one_line(arguments, message, bert_folder, sentences, table, tmp_path, capsys):
    names = {"MODEL": bert_folder, "TABLE": table(rows_of(sentences))}
    assert message in refused(capsys, "index", tmp_path / "out", *(names.get(part, part) for part in arguments))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--filter", "year="), "it ends where a value is expected"),
        (("--filter", "year=1", "--candidates", "ASKED"), "--filter compares metadata, which the texts of --candidates do not have"),
        (("--fusion", "ranks"), "fusion is 'ranks', which joins words and vectors: give --hybrid"),
    ],
)
def test_a_filter_that_cannot_work_is_one_line(arguments, message, bert_folder, texts, tmp_path, capsys):
    asked = texts("asked.txt", ["hello"])
    command = ("search", bert_folder, asked, "--index", tmp_path / "out", *(asked if part == "ASKED" else part for part in arguments))
    assert message in refused(capsys, *command, *HERE)

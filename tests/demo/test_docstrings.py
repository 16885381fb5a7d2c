import sys
from pathlib import Path

import pytest

from tain.demo.docstrings import (
    DocstringCorpus,
    gather_docstrings,
    is_natural_sentence,
    plain_text,
    prose_paragraphs,
    python_roots,
    split_sentences,
    without_name,
)
from tain.text.cleaning import same_text_key


def write_module(root: Path, name: str, *docstrings: str) -> Path:
    """One function for each docstring, called ``work_0``, ``work_1`` ..."""
    path = root / (name.replace(".", "/") + ".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f'def work_{n}():\n    """{text}"""\n\n\n' for n, text in enumerate(docstrings)), encoding="utf-8")
    return path


def documented(topic: str) -> str:
    return f"Count the {topic} in a jar.\n\n    Every {topic} is taken out and looked at in turn. The {topic} are put back at the end."


@pytest.fixture
def packages(tmp_path):
    for package in ("apple", "birch", "cedar"):
        for module in range(20):
            write_module(tmp_path, f"{package}.m{module}", *(documented(f"{package} seeds of kind {module} and {n}") for n in range(3)))
    return tmp_path


# ---- prose out of docstrings


def test_parameters_of_every_style_are_left_out():
    numpy_style = "Add two numbers.\n\nParameters\n----------\nx : int\n    The first.\n\nNotes\n-----\nOverflow is not checked.\n"
    google_style = "Add two numbers.\n\nArgs:\n    x: The first.\n\n        More of it.\n    y: The second.\n\nOverflow is not checked.\n"
    sphinx_style = "Add two numbers.\n\n:param x: the first\n    of the two\n:returns: the sum\n\nOverflow is not checked.\n"
    for docstring in (numpy_style, google_style, sphinx_style):
        assert prose_paragraphs(docstring) == ["Add two numbers.", "Overflow is not checked."]


def test_code_is_left_out():
    docstring = """Add two numbers.

    >>> add(1, 2)
    3

    Use it like this::

        add(1, 2)
        and so on

    .. code-block:: python

        add(3, 4)

    ```
    add(5, 6)
    ```
    Nothing more is known.
    """
    assert prose_paragraphs(docstring) == ["Add two numbers.", "Use it like this::", "Nothing more is known."]


def test_list_items_stand_alone():
    assert prose_paragraphs("There are two.\n\n- The first one\n  goes on.\n- The second one.") == [
        "There are two.",
        "The first one goes on.",
        "The second one.",
    ]


@pytest.mark.parametrize(
    ("marked_up", "plain"),
    [
        ("See :class:`~package.module.Name` and :func:`sum`.", "See Name and sum."),
        ("Read :ref:`the guide <guide>` now.", "Read guide now."),
        ("Give ``None`` or `x` for *all* of **them**.", "Give None or x for all of them."),
        ("It is `here <https://example.org>`_ and [there](https://example.org).", "It is here and there."),
        ("This is known [1]_ and   plain\n text.", "This is known and plain text."),
    ],
)
def test_markup_becomes_the_words_it_shows(marked_up, plain):
    assert plain_text(marked_up) == plain


def test_sentences_end_at_stops_and_not_at_abbreviations():
    text = "Take a name, e.g. Anna or J. Smith (or none. Really none). Then stop. 3 is enough! Is it?"
    assert split_sentences(text) == [
        "Take a name, e.g. Anna or J. Smith (or none. Really none).",
        "Then stop.",
        "3 is enough!",
        "Is it?",
    ]


@pytest.mark.parametrize(
    ("sentence", "is_natural"),
    [
        ("Return the number of rows in the table.", True),
        ("The file's well-known name (if any) is kept.", True),
        ("Return the rows.", False),  # three words
        ("The same " + "word " * 39 + "again.", False),
        ("foo(x, y) -> the sum of it", False),
        ("The value is x = 3 for all of it.", False),
        ("the lower case begins it here.", False),
        ("Alpha Beta Gamma Delta Epsilon.", False),  # no common word
        ("This sentence of words never stops", False),
        ("See https://example.org for the rest of it.", False),
        ("An open (parenthesis is in the sentence.", False),
    ],
)
def test_only_prose_counts_as_a_sentence(sentence, is_natural):
    assert is_natural_sentence(sentence) is is_natural


def test_a_summary_may_lack_its_stop():
    assert is_natural_sentence("Return the number of rows", may_lack_stop=True)
    assert not is_natural_sentence("Return the number of rows:", may_lack_stop=True)


@pytest.mark.parametrize(
    ("sentence", "name", "left"),
    [
        ("Like read_text(), but path.read_text() waits.", "read_text", "Like, but waits."),
        ("Read text from the file.", "read_text", "From the file."),
        ("The readText of it, not the readTexts.", "readText", "The of it, not the readTexts."),
        ("Sort the list, unsorted or not.", "_sort", "The list, unsorted or not."),
        ("Nothing to remove here.", "__", "Nothing to remove here."),
    ],
)
def test_a_functions_own_name_is_removed(sentence, name, left):
    assert without_name(sentence, name) == left


# ---- the corpus


def test_the_same_seed_gives_the_same_corpus_and_another_seed_another(packages):
    first = gather_docstrings([packages], sentences=100, functions=30, seed=1)
    assert gather_docstrings([packages], sentences=100, functions=30, seed=1) == first
    assert gather_docstrings([packages], sentences=100, functions=30, seed=2) != first


def test_no_module_gives_both_sentences_and_functions(packages):
    corpus = gather_docstrings([packages], sentences=1000, functions=1000, seed=1)
    assert corpus.functions and corpus.sentences
    held_out = {same_text_key(function.description) for function in corpus.functions}
    modules = {".".join(function.name.split(".")[:2]) for function in corpus.functions}
    for package in ("apple", "birch", "cedar"):
        for module in range(20):
            told = any(f"{package} seeds of kind {module} and" in sentence for sentence in corpus.sentences)
            assert not (told and f"{package}.m{module}" in modules)
    assert not held_out & {same_text_key(sentence) for sentence in corpus.sentences}


def test_no_package_gives_more_than_its_share(packages):
    corpus = gather_docstrings([packages], sentences=200, functions=60, seed=1)
    for package in ("apple", "birch", "cedar"):
        assert sum(package in sentence for sentence in corpus.sentences) <= 10
        assert sum(function.name.startswith(package) for function in corpus.functions) <= 3


def test_nothing_is_there_twice(tmp_path):
    for package in range(40):
        write_module(tmp_path, f"p{package}.m", documented("marbles"), documented(f"marbles of jar {package}"))
    corpus = gather_docstrings([tmp_path], seed=1)
    keys = [same_text_key(sentence) for sentence in corpus.sentences]
    assert len(keys) == len(set(keys))
    in_functions = [sentence for function in corpus.functions for sentence in split_sentences(f"{function.description} {function.rest}")]
    assert len(in_functions) == len(set(in_functions))
    assert not set(map(same_text_key, in_functions)) & set(keys)


def test_sentences_of_one_docstring_stay_together_in_its_order(tmp_path):
    said = [
        (f"The {jar} jar is opened at noon.", f"Its {jar} marbles are counted twice.", f"Nobody has to see the {jar} lid.")
        for jar in map(str, range(40))
    ]
    for number, sentences in enumerate(said):
        write_module(tmp_path, f"p{number}.m", f"{sentences[0]}\n\n    x = y -> z.  {sentences[1]} {sentences[2]}")
    corpus = gather_docstrings([tmp_path], seed=1, functions=1)
    assert len(corpus.documents) > 5
    for document in corpus.documents:
        (whole,) = (sentences for sentences in said if document[0] in sentences)
        assert document == tuple(sentence for sentence in whole if sentence in document) and len(document) >= 2
    assert corpus.sentences == tuple(sentence for document in corpus.documents for sentence in document)


def test_a_function_is_cut_into_description_and_rest(tmp_path):
    for package in range(30):
        summary = f"Let work_0 count the {package} marbles."
        more = f"The {package} jars are opened by work_0() in turn. The {package} lids are put back at the end."
        write_module(tmp_path, f"p{package}.m", f"{summary}\n\n    {more}")
    corpus = gather_docstrings([tmp_path], seed=1)
    function = corpus.functions[0]
    number = int(function.name.split(".")[0][1:])
    assert function.name == f"p{number}.m.work_0"
    assert function.description == f"Let count the {number} marbles."
    assert function.rest == f"The {number} jars are opened by in turn. The {number} lids are put back at the end."


@pytest.mark.parametrize("name", ["tests.m", "test_m", "p.testing.m", "p._vendor.m", "p.conftest", "p.m_pb2", "p.not-a-name.m"])
def test_tests_copies_and_generated_names_are_passed_over(tmp_path, name):
    write_module(tmp_path, name, documented("marbles"))
    assert gather_docstrings([tmp_path], seed=1).modules == 0


def test_generated_files_are_passed_over(tmp_path):
    for package in range(10):
        path = write_module(tmp_path, f"p{package}.m", documented(f"marbles {package}"))
        path.write_text("# Automatically generated from marbles.txt\n" + path.read_text())
    corpus = gather_docstrings([tmp_path], seed=1)
    assert not corpus.sentences and not corpus.functions


def test_broken_files_are_counted_and_do_no_harm(tmp_path):
    good = '"""Count the marbles in a jar."""\n"""Another string here."""\n'
    contents = [
        b"def (:\n" + good.encode(),
        good.encode() + b"\x00",
        b"# coding: nonsense\n" + good.encode(),
        b"\xff\xfe" + good.encode(),
    ]
    contents.append(good.encode() + b"x = " + b"(" * 500 + b")" * 500)
    for number, content in enumerate(contents):
        folder = tmp_path / f"p{number}"
        folder.mkdir()
        (folder / "m.py").write_bytes(content)
    (tmp_path / "dangling.py").symlink_to(tmp_path / "gone.py")
    corpus = gather_docstrings([tmp_path], seed=1)
    assert corpus.broken_modules == len(contents) + 1 == corpus.modules


def test_nothing_is_imported(tmp_path):
    path = write_module(tmp_path, "dangerous", documented("marbles"), documented("stones"))
    path.write_text(path.read_text() + "raise SystemExit\n")
    gather_docstrings([tmp_path], seed=1)
    assert "dangerous" not in sys.modules


def test_an_empty_root_gives_an_empty_corpus(tmp_path):
    assert gather_docstrings([tmp_path], seed=1) == DocstringCorpus((), (), packages=0, modules=0, broken_modules=0)


def test_this_machine_has_text():
    corpus = gather_docstrings(python_roots(), sentences=300, functions=30, seed=1)
    assert len(corpus.sentences) == 300 and len(corpus.functions) == 30
    assert all(4 <= len(sentence.split()) <= 40 for sentence in corpus.sentences)
    assert all(same_text_key(function.name.split(".")[-1]) not in same_text_key(function.rest).split() for function in corpus.functions)

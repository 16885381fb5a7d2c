import gzip
from pathlib import Path

import numpy as np
import pytest

from tain.foundation.errors import UserError
from tain.models.word_vectors import WordVectors, is_word_vectors


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("head", [[], ["3 2"]])
def test_words_and_numbers_are_read_with_and_without_a_first_line(tmp_path: Path, head: list[str]):
    vectors = WordVectors.load(written(tmp_path / "a.vec", *head, "glass 1 2", "sand -1 0.5 ", "New York 3 4"))
    assert len(vectors) == 3 and vectors.dim == 2
    np.testing.assert_array_equal(vectors.encode(["sand", "New York", "glass"]), np.array([[-1, 0.5], [3, 4], [1, 2]], dtype=np.float32))


def test_a_text_is_the_mean_of_its_known_words_and_zeros_without_any(tmp_path: Path):
    vectors = WordVectors.load(written(tmp_path / "a.vec", "glass 1 2", "sand 3 6"))
    np.testing.assert_array_equal(vectors.encode(["sand and glass", "Glass", ""]), np.array([[2, 4], [0, 0], [0, 0]], dtype=np.float32))


def test_packed_files_are_read_and_the_first_of_a_repeated_word_counts(tmp_path: Path):
    with gzip.open(tmp_path / "a.vec.gz", "wt") as file:
        file.write("glass 1 2\nglass 3 4\n")
    vectors = WordVectors.load(tmp_path / "a.vec.gz")
    assert len(vectors) == 1 and vectors.encode(["glass"]).tolist() == [[1, 2]]


def test_words_beyond_the_limit_are_left_out_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from tain.foundation.progress import Progress

    path = written(tmp_path / "a.vec", "a 1", "b 2", "c 3")
    assert len(WordVectors.load(path, max_words=2, progress=Progress("lines"))) == 2
    assert "the first 2 words are used, the others ignored" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["glass"], "begins with 'glass', which is not a word with its vector"),
        (["glass 1 2", "sand 1"], "line 2 has no 2 finite numbers after its word"),
        (["glass 1 2", "sand 1 nan"], "line 2 has no 2 finite numbers"),
        (["2 3", "sand 1 2 x"], "line 2 has no 3 finite numbers"),
        (["2 3"], "has no words"),
    ],
)
def test_a_file_that_is_none_is_refused_with_its_line(tmp_path: Path, lines: list[str], words: str):
    with pytest.raises(UserError, match=words):
        WordVectors.load(written(tmp_path / "a.vec", *lines))


def test_the_ending_tells_a_vector_file():
    assert is_word_vectors("wiki.de.vec.gz") and is_word_vectors(Path("a.VEC")) and not is_word_vectors("tain-mini")


def test_one_string_is_refused(tmp_path: Path, unchecked: None):
    with pytest.raises(UserError, match="read character by character"):
        WordVectors.load(written(tmp_path / "a.vec", "glass 1 2")).encode("glass")

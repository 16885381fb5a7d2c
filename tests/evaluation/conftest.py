import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


class BagOfHashes:
    """An encoder without weights: counts hashed words (``chars=0``) or runs of letters."""

    def __init__(self, name: str = "bag", *, chars: int = 0, dim: int = 64) -> None:
        self.name = name
        self.asked: list[str] = []
        self._chars, self._dim = chars, dim

    def encode(self, texts: list[str], /) -> np.ndarray:
        self.asked += texts
        vectors = np.zeros((len(texts), self._dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for part in self._parts(text.lower()):
                vectors[row, zlib.crc32(part.encode()) % self._dim] += 1
        return vectors

    def _parts(self, text: str) -> list[str]:
        if not self._chars:
            return text.split()
        return [text[start : start + self._chars] for start in range(max(1, len(text) - self._chars + 1))]


class Constant:
    """An encoder that has collapsed: every text gets the same vector."""

    name = "constant"

    def encode(self, texts: list[str], /) -> np.ndarray:
        return np.full((len(texts), 4), 0.3, dtype=np.float32)


@pytest.fixture
def bag() -> Callable[..., BagOfHashes]:
    return BagOfHashes


@pytest.fixture
def constant() -> Constant:
    return Constant()


@pytest.fixture
def shared_data() -> Path:
    folder = Path(os.environ.get("TAIN_DATA") or Path(__file__).parents[2].parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"the evaluation data is not at {folder}: set TAIN_DATA to its folder")
    return folder


@pytest.fixture
def small_data(tmp_path: Path) -> Path:
    """A data folder in the suites' layout with a few made-up pairs a set; STS13 and STS16 are absent."""
    words = ["red", "green", "blue", "small", "large", "old", "new", "house", "tree", "car", "road", "dog", "cat", "sings", "runs"]
    rng = np.random.default_rng(3)

    def table(path: str, columns: tuple[str, str], pairs: int = 12, length: int = 5) -> None:
        lines = ["\t".join([*columns, "score"])]
        for _ in range(pairs):
            left = list(rng.choice(words, size=length))
            kept = int(rng.integers(0, length + 1))
            right = left[:kept] + list(rng.choice(words, size=length - kept))
            lines.append("\t".join([" ".join(left), " ".join(right), str(kept)]))
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("\n".join(lines) + "\n", encoding="utf-8")

    for path in ("sts/sts12.tsv", "sts/sts14.tsv", "sts/sts15.tsv", "stsb/stsb_test.tsv", "stsb/stsb_dev.tsv", "sick/sick_test.tsv"):
        table(path, ("sentence1", "sentence2"))
    table("sick/sick_trial.tsv", ("sentence1", "sentence2"))
    table("sts17/sts17_track5_en-en.tsv", ("sentence1", "sentence2"))
    table("sts17/sts17_track2_ar-en.tsv", ("sentence1", "sentence2"))
    for name in ("simlex999", "men", "wordsim353_german", "our_own"):
        table(f"wordsim/{name}.tsv", ("word1", "word2"), length=2)
    (tmp_path / "wordsim/card660.tsv").write_text("word1\tword2\tscore\nice_cream\tcold cake\t1\nbig_car\tcar\t2\na\tb\t0\n")
    (tmp_path / "multisimlex").mkdir()
    (tmp_path / "multisimlex/translation.tsv").write_text(
        "id\tpos\tENG 1\tENG 2\tFRA 1\tFRA 2\n1\tn\ta\tb\tun\tdeux\n2\tn\tc\td\te\tf\n3\tn\tg\th\ti\tj\n"
    )
    (tmp_path / "multisimlex/scores.tsv").write_text("id\tpos\tENG\tFRA\n3\tn\t3\t1\n1\tn\t1\t2.5\n2\tn\t2\t3\n")
    return tmp_path

"""Every function of Python that takes texts takes columns, arrays and generators by their content, and refuses tables."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tain.evaluation.report import evaluate
from tain.foundation.errors import UserError
from tain.inspection.run import inspect
from tain.models.embedder import Embedder
from tain.models.encode_to_file import encode_to_file
from tain.models.labeller import Labeller
from tain.models.rankers import Ranker
from tain.ranking.index import CandidateIndex
from tain.ranking.rerank import add_candidates, search
from tain.recipes.correct.recipe import correct
from tain.recipes.distil.recipe import distil
from tain.recipes.mirror.recipe import mirror
from tain.recipes.rank.recipe import rank

Run = Callable[[Any], Any]

SMALL_MIRROR: dict[str, Any] = {"batch_texts": 4, "max_tokens": 40, "dtype": "float32", "device": "cpu", "held_out": 0}
SMALL_STUDENT: dict[str, Any] = {
    "features": 32,
    "bottleneck": 8,
    "state": 8,
    "layers": 1,
    "batch_texts": 4,
    "epochs": 1,
    "held_out": 0,
    "device": "cpu",
    "dtype": "float32",
    "init_words": 0,
}


@pytest.fixture(scope="module")
def entries(bert_folder: Path, save_labeller: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Each function as one of texts alone, whose result is an array or comparable."""
    embedder = Embedder.load(bert_folder, device="cpu", dtype="float32")
    ranker = Ranker.load(bert_folder, device="cpu", dtype="float32")
    labeller = Labeller.load(save_labeller("SequenceClassification", ["a", "b"]), device="cpu")
    folder = tmp_path_factory.mktemp("given")
    number = iter(range(10**6))

    def to_file(texts: Iterable[str]) -> np.ndarray:
        return np.load(encode_to_file(embedder, texts, folder / f"{next(number)}.npy").path)

    def of_index(texts: Iterable[str]) -> list[Any]:
        index = CandidateIndex.create(folder / f"index-{next(number)}", dim=ranker.dim, fingerprint=ranker.fingerprint, model=ranker.name)  # type: ignore[attr-defined]
        add_candidates(ranker, index, texts)  # type: ignore[arg-type]
        return [text for _, text in index.live_texts()]

    held = CandidateIndex.create(folder / "held", dim=ranker.dim, fingerprint=ranker.fingerprint, model=ranker.name)  # type: ignore[attr-defined]
    add_candidates(ranker, held, ["a candidate", "another one"])  # type: ignore[arg-type]

    def mirrored(texts: Iterable[str]) -> np.ndarray:
        return mirror(bert_folder, texts, **SMALL_MIRROR).embedder.encode(["a mirror"])

    return {
        "encode": embedder.encode,
        "count_tokens": embedder.count_tokens,
        "encode_to_file": to_file,
        "score, contexts": lambda texts: ranker.score(texts, ["a candidate"]),
        "score, candidates": lambda texts: ranker.score(["a context"], texts),
        "score_lists": lambda texts: ranker.score_lists(["a context"], [texts]),
        "search": lambda texts: search(ranker, held, texts, k=1),  # type: ignore[arg-type]
        "index": of_index,
        "predict": labeller.predict,
        "mirror": mirrored,
        "correct": lambda texts: correct(bert_folder, texts, method="whiten", device="cpu", dimensions=4).embedder.encode(["a mirror"]),
        "correct by language": lambda texts: correct(
            bert_folder, {"en": texts}, method="languages", device="cpu", components=1
        ).embedder.encode(["a mirror"], language="en"),
        "distil": lambda texts: distil(bert_folder, texts, **SMALL_STUDENT).student.encode(["a mirror"]),
        "inspect": lambda texts: [text.tokens for text in inspect(bert_folder, texts, device="cpu").texts],
        "evaluate": lambda texts: evaluate([embedder], ("label-free",), texts=texts, resamples=1).geometry[0].to_dict(),
    }


ENTRIES = [
    "encode",
    "count_tokens",
    "encode_to_file",
    "score, contexts",
    "score, candidates",
    "score_lists",
    "search",
    "index",
    "predict",
    "mirror",
    "correct",
    "correct by language",
    "distil",
    "inspect",
    "evaluate",
]


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_column_an_array_and_a_generator_give_what_the_list_gives(entry: str, entries: dict[str, Run], sentences: list[str]):
    pandas = pytest.importorskip("pandas")
    run, wanted = entries[entry], entries[entry](sentences)
    backwards = pandas.Series(sentences, index=range(len(sentences))[::-1])  # labels that are no places
    for given in (backwards, np.array(sentences), (text for text in sentences)):
        found = run(given)
        if isinstance(wanted, np.ndarray):
            np.testing.assert_array_equal(found, wanted)
        else:
            assert str(found) == str(wanted)


@pytest.mark.parametrize("entry", ENTRIES)
def test_tables_and_sets_are_refused(entry: str, entries: dict[str, Run], sentences: list[str], unchecked: None):
    pandas = pytest.importorskip("pandas")
    with pytest.raises(UserError, match=r"s are a DataFrame, a table with columns 'text', 'n'"):
        entries[entry](pandas.DataFrame({"text": sentences, "n": range(len(sentences))}))
    with pytest.raises(UserError, match=r"s are a set, whose order changes from run to run: give sorted"):
        entries[entry](set(sentences))


def test_pairs_come_from_arrays_and_zipped_columns(bert_folder: Path, sentences: list[str], unchecked: None):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"left": sentences[:6], "right": sentences[6:]})
    found = [
        mirror(bert_folder, given, **SMALL_MIRROR).embedder.encode(["a mirror"])
        for given in (list(zip(sentences[:6], sentences[6:], strict=True)), frame.to_numpy(), zip(frame.left, frame.right, strict=True))
    ]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    for train in (mirror, rank):
        with pytest.raises(UserError, match="are a DataFrame, a table with columns 'left', 'right'"):
            train(bert_folder, frame)


def test_a_language_each_may_come_in_a_column_and_must_be_one_a_text(bert_folder: Path, sentences: list[str]):
    by_language = {"en": sentences[:6], "de": sentences[6:]}
    embedder = correct(bert_folder, by_language, method="languages", device="cpu", components=1).embedder
    codes = ["en", "de"] * 6
    np.testing.assert_array_equal(embedder.encode(sentences, language=np.array(codes)), embedder.encode(sentences, language=codes))
    with pytest.raises(UserError, match="2 languages for 12 texts: give one per text, or one for all"):
        embedder.encode(sentences, language=codes[:2])

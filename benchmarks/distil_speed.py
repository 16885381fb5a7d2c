"""What a student costs at run time, on one core: tokens hashed a second, one short text's latency, a token's while typing, texts a second.

Students have the default shapes and random weights: speed does not depend on what they have learnt. Tokenising and hashing count on both
sides. The rival is all-MiniLM-L6-v2 under onnxruntime in float32, texts of one length together, nothing padded.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from measuring import Claim, arguments, finish, in_turns, minilm_folder, ratio_of, sts_sentences
from minilm_graph import MiniLM
from tain.models.embedder import Embedder
from tain.recipes.distil.config import PRESETS
from tain.students.inputs import HashedReader
from tain.students.projection import Projection
from tain.students.projection_config import ProjectionConfig
from tain.students.student import GRAPH_FILE, PROJECTION_FILE, RECORD_FILE, RECORD_FORMAT, Backend, Student
from tain.students.torch.export import write_student
from tain.students.torch.qrnn import PQRNN, StudentShape

HASHING_GOAL, LATENCY_GOAL_MS, TEACHER_GOAL = 1.0, 1.0, 15.0
DIM, CLASSES, TAGS = 384, 20, 60


def main():
    chosen = arguments(__doc__)
    torch.set_num_threads(1)
    sentences = sts_sentences(chosen.data)[: 500 if chosen.quick else 4000]
    repeats = 2 if chosen.quick else 7
    claims, details = hashing(sentences, repeats=repeats)
    details["sizes_bytes"] = {}
    with tempfile.TemporaryDirectory() as index:
        for name, task, is_forward in (("embed", "embed", False), ("tag", "tag", False), ("forward-only tag", "tag", True)):
            folder = Path(index) / name
            untrained(folder, task, is_forward=is_forward)
            details["sizes_bytes"][name] = sum(path.stat().st_size for path in folder.iterdir())
            claims += latencies(name, folder, sentences[:200], repeats=repeats)
        claims.append(typing(Path(index) / "forward-only tag", sentences[:50], repeats=repeats))
        more, times = throughput(Path(index), sentences[: 200 if chosen.quick else 1000], repeats=repeats)
    details["texts_times_s"] = times
    finish("distil_speed", claims + more, details, quick=chosen.quick)


def untrained(folder: Path, task: str, *, is_forward: bool) -> None:
    """Write a student of the task's default shape."""
    preset = PRESETS[task]
    outputs = {"text_outputs": DIM} if task == "embed" else {"text_outputs": CLASSES, "token_outputs": TAGS}
    sizes = {"features": preset.features, "bottleneck": preset.bottleneck, "state": preset.state, "layers": preset.layers}
    torch.manual_seed(0)
    folder.mkdir()
    write_student(PQRNN(StudentShape(**sizes, **outputs, skip=True, bidirectional=not is_forward)).eval(), folder / GRAPH_FILE)
    projection = ProjectionConfig(features=preset.features, ngram_features=preset.ngram_features, separate=preset.separate)
    projection.save(folder / PROJECTION_FILE)
    record = {"format": RECORD_FORMAT, "kind": "student", "task": task, "dim": DIM, "normalise": task == "embed"}
    if task != "embed":
        record |= {"labels": [f"class {number}" for number in range(CLASSES)], "tags": [f"B-{number}" for number in range(TAGS)]}
    (folder / RECORD_FILE).write_text(json.dumps(record), encoding="utf-8")


def hashing(sentences: list[str], *, repeats: int) -> tuple[list[Claim], dict[str, object]]:
    """Millions of tokens a second: in training with every token new to the cache and every token known, and known to a student that serves."""
    claims, details, tokens = [], {}, 0
    parts = [sentences[start : start + 256] for start in range(0, len(sentences), 256)]
    shapes = {"whole tokens": ProjectionConfig(features=512)}
    for task in ("tag", "embed"):
        preset = PRESETS[task]
        config = ProjectionConfig(features=preset.features, ngram_features=preset.ngram_features, separate=preset.separate)
        shapes[f"with n-grams, as {task} does"] = config
    for name, config in shapes.items():
        warm = Projection(config)
        tokens = sum(int(warm(part).lengths.sum()) for part in parts)

        def new(config=config):
            fresh = Projection(config)
            return [fresh(part) for part in parts]

        times = in_turns({"known": lambda warm=warm: [warm(part) for part in parts], "new": new}, repeats=repeats)
        for kind, taken_s in times.items():
            rates = sorted(tokens / one / 1e6 for one in taken_s)
            title = f"hashing {name}, cache {'full' if kind == 'known' else 'empty'}"
            claims.append(Claim(title, float(np.median(rates)), "million tokens/s", HASHING_GOAL, (rates[0], rates[-1]), None))
        details[name] = {"tokens": tokens, "times_s": times}
    reader = HashedReader(shapes["with n-grams, as embed does"], bottleneck=PRESETS["embed"].bottleneck)
    for part in parts:
        rows = reader(part).arrays["rows"]
        reader.keep({"codes": np.zeros((len(rows), PRESETS["embed"].bottleneck), np.uint8)})
    times = in_turns({"served": lambda: [reader(part) for part in parts]}, repeats=repeats)["served"]
    rates = sorted(tokens / one / 1e6 for one in times)
    claims.append(
        Claim(
            "reading as an embed student does, tokens known",
            float(np.median(rates)),
            "million tokens/s",
            HASHING_GOAL,
            (rates[0], rates[-1]),
            None,
        )
    )
    details["served"] = {"tokens": tokens, "times_s": times}
    return claims, details


def latencies(name: str, folder: Path, sentences: list[str], *, repeats: int) -> list[Claim]:
    """Milliseconds of one text at a time, in onnxruntime and in NumPy, which agree: all tokens known, and met for the first time."""
    students = {backend: Student.load(folder, backend=backend, threads=1) for backend in ("onnx", "numpy")}
    apart = difference(students, sentences[:50])
    calls = {backend: student.encode if student.task == "embed" else student.predict for backend, student in students.items()}
    rivals = {backend: lambda call=call: [call([text]) for text in sentences] for backend, call in calls.items()}
    claims = []
    for backend, taken_s in in_turns(rivals, repeats=repeats).items():
        times_ms = sorted(1000 * one / len(sentences) for one in taken_s)
        title = f"{name}, one short text, {backend}"
        claims.append(Claim(title, float(np.median(times_ms)), "ms", LATENCY_GOAL_MS, (times_ms[0], times_ms[-1]), apart))
    for backend in get_args(Backend):
        times_ms = sorted(first_pass_ms(folder, sentences, backend=backend) for _ in range(repeats))
        title = f"{name}, one short text of a first pass, {backend}"
        claims.append(Claim(title, float(np.median(times_ms)), "ms", None, (times_ms[0], times_ms[-1]), None))
    return claims


def first_pass_ms(folder: Path, sentences: list[str], *, backend: Backend) -> float:
    """Milliseconds a text of a student that was just loaded and knows no token: each is new once."""
    student = Student.load(folder, backend=backend, threads=1)
    call = student.encode if student.task == "embed" else student.predict
    call(["0"])  # sets the graph up
    began_s = time.perf_counter()
    for text in sentences:
        call([text])
    return 1000 * (time.perf_counter() - began_s) / len(sentences)


def difference(students: dict[str, Student], sentences: list[str]) -> float:
    """How far the two backends are apart: vectors by their largest number, labels by the share that differs."""
    one, other = students.values()
    if one.task == "embed":
        apart = float(np.abs(one.encode(sentences) - other.encode(sentences)).max())
        assert apart < 0.05, f"onnxruntime and NumPy differ by {apart}"
        return apart
    both = zip(one.predict(sentences), other.predict(sentences), strict=True)
    apart = float(np.mean([left.label != right.label for left, right in both]))
    assert apart <= 0.1, f"onnxruntime and NumPy tell {apart:.0%} of the texts apart"  # random weights: many near ties
    return apart


def typing(folder: Path, sentences: list[str], *, repeats: int) -> Claim:
    """Milliseconds from a blank to the new word on the text so far."""
    student = Student.load(folder, backend="numpy")
    words = [text.split(" ") for text in sentences]

    def typed() -> None:
        for text in words:
            stream = student.stream()
            for word in text:
                stream.type(f"{word} ")
                stream.predict()

    count = sum(map(len, words))
    times_ms = sorted(1000 * one / count for one in in_turns({"typing": typed}, repeats=repeats)["typing"])
    return Claim("forward-only tag, one more word, numpy", float(np.median(times_ms)), "ms", None, (times_ms[0], times_ms[-1]), None)


def throughput(folder: Path, sentences: list[str], *, repeats: int) -> tuple[list[Claim], dict[str, list[float]]]:
    """Texts a second beside the teacher's."""
    teacher, student = MiniLM(folder), Student.load(folder / "embed", threads=1)
    known = Embedder.load(minilm_folder(), device="cpu", dtype="float32").encode(sentences[:50], normalize=True)
    apart = float(np.abs(teacher.encode(sentences[:50]) - known).max())
    assert apart < 1e-5, f"MiniLM under onnxruntime is {apart} off"
    times = in_turns({"teacher": lambda: teacher.encode(sentences), "student": lambda: student.encode(sentences)}, repeats=repeats)
    ratio, spread = ratio_of(times["teacher"], times["student"])
    return [Claim("embed, texts a second", ratio, "times MiniLM under onnxruntime", TEACHER_GOAL, spread, apart)], times


if __name__ == "__main__":
    main()

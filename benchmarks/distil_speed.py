"""What a student costs at run time: tokens hashed a second, one short text's latency, and texts a second, in eight bits on one core.

The students have the default shapes and random weights: speed does not depend on what they have learnt.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from measuring import Claim, arguments, finish, in_turns, minilm_folder, ratio_of, sts_sentences
from tain.batches.projection import Projection, ProjectionConfig
from tain.encoders.qrnn import PQRNN, StudentShape
from tain.export.student import write_student
from tain.models.embedder import Embedder
from tain.recipes.distil_config import PRESETS
from tain.runtime.student import GRAPH_FILE, PROJECTION_FILE, RECORD_FILE, Student

WARM_TOKENS_GOAL, LATENCY_GOAL_MS, TEACHER_GOAL = 1e6, 1.0, 15.0


def untrained(folder: Path, task: str, outputs: int) -> None:
    """Write a student of the task's default shape."""
    preset = PRESETS[task]
    shape = StudentShape(
        features=preset.features, bottleneck=preset.bottleneck, state=preset.state, layers=preset.layers, text_outputs=outputs
    )
    torch.manual_seed(0)
    write_student(PQRNN(shape).eval(), folder / GRAPH_FILE)
    ProjectionConfig(features=preset.features, ngram_features=preset.ngram_features, separate=preset.separate).save(
        folder / PROJECTION_FILE
    )
    labels = ", ".join(f'"{number}"' for number in range(outputs))
    (folder / RECORD_FILE).write_text(
        f'{{"format": 1, "task": "{task}", "dim": {outputs}, "labels": [{labels}], "tags": []}}', encoding="utf-8"
    )


def hashing(sentences: list[str], *, repeats: int) -> tuple[list[Claim], dict[str, object]]:
    """Tokens a second with every token known, as in training and serving, and with none."""
    claims, details = [], {}
    for name, config in {
        "whole tokens": ProjectionConfig(features=512),
        "with n-grams": ProjectionConfig(features=2048, ngram_features=1024, separate=True),
    }.items():
        warm = Projection(config)
        warm(sentences)
        tokens = int(warm(sentences).lengths.sum())
        parts = [sentences[start : start + 256] for start in range(0, len(sentences), 256)]
        rivals = {
            f"{name}, known": lambda p=warm, b=parts: [p(part) for part in b],
            f"{name}, new": lambda c=config, b=parts: [p(part) for p in [Projection(c)] for part in b],
        }
        times = in_turns(rivals, repeats=repeats)
        for rival, taken_s in times.items():
            rates = sorted(tokens / one / 1e6 for one in taken_s)
            goal = WARM_TOKENS_GOAL / 1e6 if rival.endswith("known") else None
            claims.append(Claim(f"hashing, {rival} tokens", float(np.median(rates)), "million tokens/s", goal, (rates[0], rates[-1]), None))
        details[name] = {"tokens": tokens, "times_s": times}
    return claims, details


def latency(student: Student, sentences: list[str], *, repeats: int) -> list[float]:
    """Milliseconds of single texts, one after the other."""
    call = student.encode if student.task == "embed" else student.predict

    def one_by_one() -> None:
        for text in sentences:
            call([text])

    return [1000 * taken_s / len(sentences) for taken_s in in_turns({"one by one": one_by_one}, repeats=repeats)["one by one"]]


def main():
    chosen = arguments(__doc__)
    torch.set_num_threads(1)
    sentences = sts_sentences(chosen.data)[: 500 if chosen.quick else 4000]
    repeats = 2 if chosen.quick else 7
    claims, details = hashing(sentences, repeats=repeats)
    details["sizes_bytes"] = {}
    teacher = Embedder.load(minilm_folder(), device="cpu", dtype="float32")
    for task, outputs in (("embed", teacher.dim), ("classify", 20)):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            untrained(folder, task, outputs)
            details["sizes_bytes"][task] = (folder / GRAPH_FILE).stat().st_size
            students = {backend: Student.load(folder, backend=backend, threads=1) for backend in ("onnx", "numpy")}
        call = {backend: student.encode if task == "embed" else student.predict for backend, student in students.items()}
        apart = 0.0
        if task == "embed":
            one, other = (call[backend](sentences[:50]) for backend in ("onnx", "numpy"))
            apart = float(np.abs(one - other).max())
            assert apart < 0.05 * float(np.abs(one).max()), f"onnxruntime and NumPy differ by {apart}"
        for backend, student in students.items():
            times_ms = sorted(latency(student, sentences[:200], repeats=repeats))
            claims.append(
                Claim(
                    f"{task}, one short text, {backend}",
                    float(np.median(times_ms)),
                    "ms",
                    LATENCY_GOAL_MS,
                    (times_ms[0], times_ms[-1]),
                    apart,
                )
            )
        if task == "embed":
            some = sentences[: 200 if chosen.quick else 1000]
            times = in_turns({"teacher": lambda s=some: teacher.encode(s), "student": lambda s=some, c=call: c["onnx"](s)}, repeats=repeats)
            ratio, spread = ratio_of(times["teacher"], times["student"])
            claims.append(Claim("embed, texts a second", ratio, "times MiniLM in tain, float32, one thread", TEACHER_GOAL, spread, None))
            details["texts_times_s"] = times
    finish("distil_speed", claims, details, quick=chosen.quick)


if __name__ == "__main__":
    main()

"""How much of its teacher a tiny student keeps, and what it costs in bytes and milliseconds.

    python benchmarks/distil_quality.py --seeds 3
    python benchmarks/distil_quality.py --quick        (a few texts of each, no results file)
    python benchmarks/distil_quality.py --plot         (draws docs/distillation.svg from the results)
    python benchmarks/distil_quality.py --parts labels --who "pqrnn on labels" --split dev --settings mean_skip=false --work runs/try     (a trial)

labels: intents and slots of ATIS, SNIPS, CLINC150, SLURP (trained on nlu_home) and xSID (trained on its validation part, all languages
together). Teachers are fine-tuned on the same texts, both heads together; students are distilled from them with copies of the texts that the
teacher labels, from nothing or begun with a student of vectors (--start), or trained on the given labels alone; the static student tells intents only; the LSTM has an embedding table of its own. Labels
that no training text has count as wrong for all.
embed: STS of students of all-MiniLM-L6-v2 on raw text of the corpus, against a static student of as many bytes.

Settings are the recipe's own and the same for all sets. Rows go to WORK/rows.jsonl as they are found, and a row that is there is not measured
again, so that a run can be cut off. Fine-tuned teachers are kept in WORK/teachers.
"""

import argparse
import json
import lzma
import math
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from distil_rivals import FineTuned, Lstm
from measuring import RESULTS, Claim, Rows, finish, minilm_folder
from tain.evaluation.report import evaluate
from tain.evaluation.tagging import measure_tagging
from tain.evaluation.tagging_sets import load_tagging
from tain.foundation.machine import keep_freed_memory
from tain.models.embedder import Embedder
from tain.recipes.distil.config import PRESETS
from tain.recipes.distil.recipe import distil
from tain.students.student import Student
from tain.text.cleaning import drop_repeats

PARTS = ("labels", "embed")
SETS = ("atis", "snips", "clinc150", "slurp", "xsid")
TEACHERS = {"all-MiniLM-L6-v2": str(minilm_folder()), "tain-mini": "tain-mini"}
# of fine-tuning; ATIS's development part with tain-mini, texts with nothing wrong: 87.8 at 3e-4, 86.0 at 1e-3
RATES = {"all-MiniLM-L6-v2": 1e-4, "tain-mini": 3e-4}
COPIES = 3  # of each text, where a teacher labels changed ones: the recipe's own two, and the text itself
WHO = ("lstm", "pqrnn on labels", "pqrnn", "pqrnn, begun", "static")
TYPOS = (0.0, 0.05, 0.1, 0.2)
EMBEDDING = ("teacher", "pqrnn", "static", "static, untrained")
CORPUS_FILES = ("simplewiki.txt.xz", "enwiki_core.txt.xz")
GOALS = {"labels kept": 0.96, "labels MB": 2.2, "labels smaller": 40.0, "embed kept": 0.9, "embed MB": 4.0, "beyond static": 1.0}
TINY = {"features": 128, "bottleneck": 16, "state": 16, "layers": 1, "epochs": 1, "batch_texts": 16}  # for --quick


def main():
    chosen = arguments()
    if chosen.plot:
        draw()
        return
    keep_freed_memory()
    rows = Rows(chosen.work / "rows.jsonl", is_kept=not chosen.quick)
    if "labels" in chosen.parts and not chosen.report:
        for key in chosen.sets:
            for seed in range(13, 13 + chosen.seeds):
                measure_labels(rows, key, seed, chosen)
    if "embed" in chosen.parts and not chosen.report:
        measure_embedding(rows, chosen)
    show(rows.found)
    finish("distil_quality", claims_of(rows.found), {"rows": rows.found}, quick=chosen.is_trial)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--teachers", nargs="+", choices=list(TEACHERS), default=list(TEACHERS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=200_000, help="of the corpus, for embed")
    parser.add_argument("--epochs", type=int, help="of the students; default: the recipe's own")
    parser.add_argument("--split", choices=("test", "dev"), default="test", help="of labels: what is measured; dev writes no results file")
    parser.add_argument(
        "--settings", nargs="+", default=[], metavar="NAME=VALUE", help="other settings of the students; writes no results file"
    )
    parser.add_argument("--who", nargs="+", choices=WHO, default=list(WHO), help="of labels: which rivals")
    parser.add_argument("--start", type=Path, help="student of vectors of the default shape of labels, for those that begin with one")
    parser.add_argument("--work", type=Path, default=Path("runs/distil"), help="folder for rows")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--quick", action="store_true", help="a hundred texts, tiny students, one seed, tain-mini, no results file")
    parser.add_argument("--report", action="store_true", help="measure nothing, write the results file from the rows that are there")
    parser.add_argument("--plot", action="store_true", help="only draw the plot")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.seeds, chosen.texts, chosen.teachers, chosen.sets = 1, 100, ["tain-mini"], ["atis", "clinc150"]
    given = {name: json.loads(value) for name, _, value in (each.partition("=") for each in chosen.settings)}
    chosen.is_trial = bool(chosen.quick or given or chosen.split == "dev")
    chosen.settings = given | (TINY if chosen.quick else {} if chosen.epochs is None else {"epochs": chosen.epochs})
    return chosen


# ---- intents and slots


def measure_labels(rows, key, seed, chosen):
    """Teacher by teacher and rival by rival, what of one set and seed is not there yet."""
    trained, tested = (part_of(key, part, chosen) for part in ("train", chosen.split))
    examples = [example for one in trained for example in one.examples]
    task = "tag" if examples[0].tags else "classify"
    for who in (who for who in ("lstm", "pqrnn on labels") if who in chosen.who):
        name = {"part": "labels", "set": key, "teacher": "none", "who": who, "seed": seed}
        if rows.lacks(**name):
            began_s = time.perf_counter()
            if who == "lstm":
                torch.manual_seed(seed)
                model = Lstm(examples)
                rate = {"epochs": 1 if chosen.quick else 10, "learning_rate": 2e-3, "batch_texts": 64}
                model.learn(examples, **rate, seed=seed)
                size = model.size_bytes
            else:
                # without changed copies, so that all students read as many texts
                epochs = COPIES * chosen.settings.get("epochs", PRESETS[task].epochs)
                model, size = distilled("none", examples, task=task, held_out=0, seed=seed, **chosen.settings | {"epochs": epochs})
            rows.add(**name, **measured(model, tested, size, began_s))
    for teacher in chosen.teachers:
        students = ["pqrnn", *(["pqrnn, begun"] if chosen.start else []), "static"]
        wanted = ["teacher", *(who for who in students if who in chosen.who)]
        if wanted == ["teacher"]:
            continue
        names = {who: {"part": "labels", "set": key, "teacher": teacher, "who": who, "seed": seed} for who in wanted}
        if not any(rows.lacks(**name) for name in names.values()):
            continue
        began_s = time.perf_counter()
        torch.manual_seed(seed)
        tuned = FineTuned(teacher, TEACHERS[teacher], examples)
        file = chosen.work / "teachers" / f"{teacher}, {key}, {seed}.safetensors"
        if file.exists() and not chosen.quick:
            tuned.load(file)
        else:
            tuned.learn(examples, epochs=1 if chosen.quick else 5, learning_rate=RATES[teacher], batch_texts=32, seed=seed)
            if not chosen.quick:
                tuned.save(file)
        if rows.lacks(**names["teacher"]):
            rows.add(**names["teacher"], **measured(tuned, tested, tuned.size_bytes, began_s))
        for who in wanted[1:]:
            if rows.lacks(**names[who]):
                began_s = time.perf_counter()
                settings = chosen.settings | ({"init_from": str(chosen.start)} if who == "pqrnn, begun" else {})
                if who == "static":
                    model, size, asked = static_student(rows, names[who], tuned, examples, tested, chosen)
                else:
                    model, size = distilled(tuned, examples, task=task, held_out=0, seed=seed, **settings)
                    asked = tested
                rows.add(**names[who], **measured(model, asked, size, began_s))


def static_student(rows, name, tuned, examples, tested, chosen):
    """A static student as heavy as the pQRNN of that set and seed, its bytes, and what it can be asked: intents, for it cannot tag."""
    rivals = [name | {"who": "pqrnn"}, name | {"who": "pqrnn, begun"}, name | {"who": "pqrnn on labels", "teacher": "none"}]
    rival = next((rival for rival in rivals if not rows.lacks(**rival)), None)
    if rival is None:
        raise SystemExit(
            f"no pQRNN of {name['set']} with seed {name['seed']} was measured, and a static student is to weigh as much: add --who pqrnn static"
        )
    settings = like_for_like(chosen.settings, rows, rival, tuned.embedder, outputs=len(tuned.labels))
    model, size = distilled(tuned.without_slots(), untagged(examples), task="classify", held_out=0, seed=name["seed"], **settings)
    return model, size, [replace(one, examples=tuple(untagged(one.examples))) for one in tested]


def untagged(examples):
    return [replace(example, tags=None) for example in examples]


def part_of(key, part, chosen):
    sets, _ = load_tagging([key], chosen.data, part=part)
    if chosen.quick:
        indices = np.linspace(0, len(sets[0].examples) - 1, 100).astype(int)
        sets = [type(one)(one.key, tuple(one.examples[index] for index in indices)) for one in sets[:1]]
    return sets


def distilled(teacher, examples, **settings):
    """A student as anyone would load it, on one thread, and its bytes."""
    with tempfile.TemporaryDirectory() as index:
        result = distil(teacher, examples, Path(index) / "student", **settings)
        return Student.load(Path(index) / "student", threads=1), result.sizes["student_bytes"]


def measured(model, sets, size, began_s):
    """Figures at every share of typing errors (mean over a set's languages), bytes, and one text's time on one core."""
    trained_s = time.perf_counter() - began_s
    report = measure_tagging([model], sets, named=[one.key for one in sets], typos=TYPOS, unknown_labels="count-as-wrong", resamples=20)
    summary = [row for row in report.rows if row.set == ("mean" if len(sets) > 1 else sets[0].key)]
    figures = {f"{row.typos:g}": {name: round(100 * each.value, 2) for name, each in row.figures.items()} for row in summary}
    return {"figures": figures, "bytes": size, "ms": latency_ms(model, sets[0].examples), "trained_s": round(trained_s, 1)}


def latency_ms(model, examples):
    """Median of single texts on one thread; the teachers run in torch here (see distil_speed.py for onnxruntime)."""
    threads, times_s = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for example in examples[:60]:
            began_s = time.perf_counter()
            model.predict([example.text])
            times_s.append(time.perf_counter() - began_s)
    finally:
        torch.set_num_threads(threads)
    return round(1000 * float(np.median(times_s[10:])), 3)


# ---- vectors


def measure_embedding(rows, chosen):
    teacher_name = "tain-mini" if chosen.quick else "all-MiniLM-L6-v2"
    seeds = range(13, 13 + chosen.seeds)
    names = [
        {"part": "embed", "set": "sts", "teacher": teacher_name, "who": who, "seed": seed}
        for seed in seeds
        for who in EMBEDDING[: 3 if chosen.quick else 4]
    ]
    if not any(rows.lacks(**name) for name in names):
        return
    teacher = Embedder.load(TEACHERS[teacher_name], device="cpu")
    texts = sentences_of(chosen.data.parent / "corpus", texts=chosen.texts)
    file = chosen.work / f"{teacher_name}, {len(texts)} sentences.npy"
    if not file.exists():  # once for all students, and for the next call
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, teacher.encode(texts))
    for name in names:
        if rows.lacks(**name):
            began_s = time.perf_counter()
            made, size = embedding_student(name["who"], file, texts, teacher, name["seed"], rows, chosen)
            trained_s = round(time.perf_counter() - began_s, 1)
            rows.add(**name, figures={"0": {"spearman": sts_of(made, chosen)}}, bytes=size, texts=len(texts), trained_s=trained_s)


def embedding_student(who, file, texts, teacher, seed, rows, chosen):
    if who == "teacher":
        return teacher, 4 * sum(parameter.numel() for parameter in teacher.encoder.parameters())
    if who == "pqrnn":
        return distilled(file, texts, seed=seed, token_vectors=teacher.name, max_texts=0, **chosen.settings)
    settings = like_for_like(chosen.settings, rows, {"part": "embed", "who": "pqrnn", "seed": seed}, teacher, outputs=teacher.dim)
    if who == "static, untrained":
        settings["epochs"] = 0
    return distilled(file, texts, seed=seed, token_vectors=teacher.name, max_texts=0, **settings)


def like_for_like(settings, rows, rival, embedder, *, outputs):
    """Settings of a static student that weighs what the pQRNN of that name does: as many numbers a token as fit beside the tokenizer's file."""
    room = next(row["bytes"] for row in rows.found if all(row[key] == value for key, value in rival.items()))
    tokenizer_bytes = len(embedder.tokenizer.backend_tokenizer.to_str().encode())
    dim = max(8, (room - tokenizer_bytes) // (len(embedder.tokenizer) + 4 * outputs))
    return {"student": "static", "static_dim": dim} | {name: settings[name] for name in ("epochs", "batch_texts") if name in settings}


def sts_of(encoder, chosen):
    _, mean = evaluate([encoder], ("stsb",) if chosen.quick else ("sts",), chosen.data, resamples=10).headline()
    return round(mean.figures[0].value, 2)


def sentences_of(corpus: Path, *, texts):
    """Sentences of 4 to 40 words, drawn from all over the files' beginnings."""
    found = []
    for name in CORPUS_FILES:
        ours = []
        with lzma.open(corpus / name, "rt", encoding="utf-8") as file:
            for line in file:
                parts = line.strip().replace("? ", "?\n").replace(". ", ".\n").split("\n")
                ours += [part for part in parts if 4 <= len(part.split()) <= 40]
                if len(ours) > 5 * texts:
                    break
        found += ours
    return drop_repeats(random.Random(0).sample(found, min(texts, len(found)))).texts


# ---- what it comes to


def score(row):
    """A row's one number: texts with nothing wrong where there are slots, else accuracy; Spearman for vectors."""
    figures = row["figures"]["0"]
    return next(figures[name] for name in ("exact", "accuracy", "spearman") if name in figures)


def intents(row):
    return row["figures"]["0"].get("accuracy", score(row))


def pairs_of(rows, part, left, right):
    """Rows of the same set and seed, and of the same teacher where both have one, as (left, right), by (teacher, seed)."""
    found = {}
    for one in rows:
        for other in rows:
            same = one["part"] == other["part"] == part and (one["set"], one["seed"]) == (other["set"], other["seed"])
            is_kin = one["teacher"] == other["teacher"] or "none" in (one["teacher"], other["teacher"])
            if same and is_kin and (one["who"], other["who"]) == (left, right):
                teacher = one["teacher"] if other["teacher"] == "none" else other["teacher"]
                found.setdefault((teacher, one["seed"]), []).append((one, other))
    return found


def kept(rows, part, left, right, title, goal, figure=score):
    """Claims, one a teacher: left's figure over right's, the mean of a set's seeds, then of the sets; the range of seeds that have all sets."""
    found = pairs_of(rows, part, left, right)
    claims = []
    for teacher in dict.fromkeys(teacher for teacher, _ in found):
        by_set: dict[str, dict[int, float]] = {}
        for (name, seed), pairs in found.items():
            for one, other in pairs if name == teacher else []:
                by_set.setdefault(one["set"], {})[seed] = figure(one) / max(figure(other), 0.01)  # 0 comes of --quick alone
        whole = set.intersection(*(set(seeds) for seeds in by_set.values()))
        means = sorted(float(np.mean([seeds[seed] for seeds in by_set.values()])) for seed in whole)
        mean = float(np.mean([np.mean(list(seeds.values())) for seeds in by_set.values()]))
        suffix = "" if teacher == "none" else f" ({teacher})"
        spread = (means[0], means[-1]) if means else (mean, mean)
        claims.append(
            Claim(f"{title}{suffix}, {len(by_set)} set{'s' * (len(by_set) > 1)}", round(mean, 3), "times its", goal, spread, None)
        )
    return claims


def claims_of(rows):
    claims = kept(rows, "labels", "pqrnn", "teacher", "labels, score beside the teacher's", GOALS["labels kept"])
    claims += kept(
        rows, "labels", "pqrnn, begun", "teacher", "labels, begun with a student of vectors, beside the teacher's", GOALS["labels kept"]
    )
    claims += kept(rows, "labels", "pqrnn on labels", "teacher", "labels, without distillation, beside the teacher's", None)
    claims += kept(rows, "labels", "pqrnn", "static", "labels, intents beside the static student's", GOALS["beyond static"], intents)
    claims += kept(rows, "labels", "pqrnn on labels", "lstm", "labels, without distillation, beside the LSTM's", None)
    claims += kept(rows, "embed", "pqrnn", "teacher", "embed, mean STS Spearman beside the teacher's", GOALS["embed kept"])
    claims += kept(rows, "embed", "pqrnn", "static", "embed, beside a static student of equal bytes", GOALS["beyond static"])
    for part in PARTS:
        sizes = [row["bytes"] / 1e6 for row in rows if row["part"] == part and row["who"].startswith("pqrnn")]
        if sizes:
            claims.append(Claim(f"{part}, largest student", max(sizes), "MB", GOALS[f"{part} MB"], (min(sizes), max(sizes)), None))
    smaller = [
        other["bytes"] / one["bytes"]
        for (teacher, _), pairs in pairs_of(rows, "labels", "pqrnn", "teacher").items()
        for one, other in pairs
        if teacher == "all-MiniLM-L6-v2"
    ]
    if smaller:
        spread = (min(smaller), max(smaller))
        claims.append(Claim("labels, teacher's bytes", min(smaller), "times the student's", GOALS["labels smaller"], spread, None))
    return claims


def summed_up(rows):
    """Means over seeds, by part, set, teacher and rival."""
    keys = list(dict.fromkeys((row["part"], row["set"], row["teacher"], row["who"]) for row in rows))
    summary = []
    for key in keys:
        mine = [row for row in rows if (row["part"], row["set"], row["teacher"], row["who"]) == key]
        scores = [score(row) for row in mine]
        entry = dict(zip(("part", "set", "teacher", "who"), key, strict=True)) | {"seeds": len(mine), "score": float(np.mean(scores))}
        entry |= {
            "deviation": float(np.std(scores, ddof=1)) if len(mine) > 1 else None,
            "bytes": float(np.mean([row["bytes"] for row in mine])),
        }
        entry["ms"] = float(np.mean([row["ms"] for row in mine])) if "ms" in mine[0] else None
        entry["typos"] = {
            typos: float(np.mean([row["figures"][typos].get("accuracy", score(row)) for row in mine])) for typos in mine[0]["figures"]
        }
        summary.append(entry)
    return summary


def show(rows):
    print(
        "score: texts with nothing wrong (accuracy without slots, Spearman for vectors), x 100, mean of seeds; typos: accuracy of intents"
    )
    for entry in summed_up(rows):
        typos = "  ".join(f"{float(share):.0%} {value:5.1f}" for share, value in entry["typos"].items()) if len(entry["typos"]) > 1 else ""
        name = f"{entry['set']:9} {entry['teacher']:17} {entry['who']:18}"
        deviation = "" if entry["deviation"] is None else f"±{entry['deviation']:5.2f}"
        print(f"{name} {entry['score']:6.2f} {deviation:6} {entry['bytes'] / 1e6:7.2f} MB  {typos}")


def draw():
    """Score against bytes, one dot a rival, with the milliseconds of one text beside its name; means over the sets of labels."""
    from plotting import BLUE, GREY, save, start

    rows = json.loads((RESULTS / "distil_quality.json").read_text(encoding="utf-8"))["rows"]
    summary = [entry for entry in summed_up(rows) if entry["part"] == "labels"]
    sets = set.intersection(*({entry["set"] for entry in summary if entry["who"] == who} for who in ("teacher", "pqrnn")))
    dots, counts = [], set()
    for who, teacher in dict.fromkeys((entry["who"], entry["teacher"]) for entry in summary):
        mine = [entry for entry in summary if (entry["who"], entry["teacher"]) == (who, teacher) and entry["set"] in sets]
        if {entry["set"] for entry in mine} == sets and who != "static":  # it tells intents alone, so that its score is another
            name = teacher if who == "teacher" else f"{who} of {teacher}" if teacher != "none" else who
            counts |= {entry["seeds"] for entry in mine}
            means = [float(np.mean([entry[key] for entry in mine])) for key in ("bytes", "score", "ms")]
            dots.append((name, *means, float(np.mean([entry["deviation"] or 0.0 for entry in mine]))))
    seeds = f"{min(counts)} to {max(counts)} seeds" if len(counts) > 1 else f"{min(counts)} seed{'s' * (min(counts) > 1)}"
    share = next(
        claim.ratio for claim in claims_of(rows) if claim.claim.startswith("labels, score beside the teacher's (all-MiniLM-L6-v2)")
    )
    figure, (axes,) = start(
        f"A student keeps {share:.1%} of MiniLM's score, mean of {', '.join(sorted(sets))}",
        note=f"bars: one standard deviation to either side ({seeds}); beside names: milliseconds a text, on a machine with other work",
        height=4.2,
    )
    for _, size, value, _, deviation in dots:
        axes.errorbar(size / 1e6, value, yerr=deviation, fmt="none", color="#bbbbbb", capsize=2)
    apart = 0.055 * (max(dot[2] for dot in dots) - min(dot[2] for dot in dots))  # of two names, one above the other
    below = [math.inf]  # heights of the names so far
    for name, size, value, ms, _ in sorted(dots, key=lambda dot: -dot[2]):
        colour = BLUE if name.startswith("pqrnn") else GREY
        axes.plot(size / 1e6, value, "o" if name.startswith("pqrnn") else "s", color=colour, markersize=5.5)
        below.append(min(value, below[-1] - apart))
        axes.annotate(
            f"{name}, {ms:.1f} ms",
            (size / 1e6, value),
            xytext=(1.15 * size / 1e6, below[-1]),
            va="center",
            color=colour,
            arrowprops={"arrowstyle": "-", "color": "#dddddd", "shrinkA": 0, "shrinkB": 4},
        )
    axes.set_xscale("log")
    axes.set_xlim(right=12 * max(dot[1] for dot in dots) / 1e6)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y")
    axes.set_xlabel("megabytes of everything that is needed")
    axes.set_ylabel("texts with all labels right, x 100")
    save(figure, "distillation.svg")


if __name__ == "__main__":
    main()

"""Which pretraining objective makes the better encoder? Random masks, fully-explored masks (both forms) and CMLM, alone and mirrored.

    python benchmarks/objectives.py --model runs/.mini.pretrain/snapshot-8M --tokens 5e5 --seeds 3
    python benchmarks/objectives.py --plot        (draws docs/objectives.svg from the results)
    python benchmarks/objectives.py --model tain-mini --tokens 2e5 --seeds 3 --transfer-seeds 0 --results objectives_by_text \
        --objectives random "explored in a step" "explored in a step, batch" cmlm "cmlm, batch" --work runs/objectives-by-text

Every run starts from the same weights, the shipped tain-mini or a snapshot of its training centred as the shipped one is, passes the same number of tokens
through the encoder in steps of the same size, and sees the same text: each part of it three times over (in three epochs; for
masks explored within a step three times in one). All are mirrored with the shipped model's settings.
Rows go to WORK/rows.jsonl as they are found, and a figure that is there is not measured again, so that a run can be cut off.
"""

import argparse
import json
import time
from itertools import islice
from pathlib import Path

import numpy as np

from measuring import RESULTS, Rows, command_line, machine
from mirror_gain import TEXTS, scores
from ship_mini import MIRROR, write_centred
from tain.evaluation.report import evaluate
from tain.foundation.files import whole_file, whole_folder
from tain.models.embedder import Embedder
from tain.models.masked_lm import MaskedPredictor
from tain.recipes.mirror.recipe import mirror
from tain.recipes.pretrain.recipe import pretrain
from tain.text.readers import read_sentences, read_texts

VISITS = 3  # of each part of the text: the parts of one partition at a masking rate of 0.3
RATE, BLOCK_TOKENS, BATCH_BLOCKS = 0.3, 128, 24
OBJECTIVES = {
    "random": {"objective": "random"},
    "explored in a step": {"objective": "fully-explored", "explored_parts": VISITS, "batch_blocks": BATCH_BLOCKS // VISITS},
    "explored over epochs": {"objective": "fully-explored", "explored_parts": VISITS, "spread_over_epochs": True},
    "cmlm": {"objective": "cmlm"},
}
# masks whose number is fixed over all texts of a step, and not for each text: what the two were before there was a choice
BY_BATCH = {f"{name}, batch": {**OBJECTIVES[name], "mask_unit": "batch"} for name in ("explored in a step", "cmlm")}
FIGURES = {"mlm": "validation loss, nats", "sts": "STS", "words": "words", "transfer": "transfer"}
VALIDATION_LINES = 60  # of each validation file
CHARACTERS_A_TOKEN = 4.3  # of this tokenizer on this text; only the length of the excerpt hangs on it


def main():
    chosen = arguments()
    if chosen.plot:
        draw()
        return
    chosen.work.mkdir(parents=True, exist_ok=True)
    rows = Rows(chosen.work / "rows.jsonl")
    text, start = excerpt(chosen), centred(chosen)

    seeds = range(13, 13 + chosen.seeds)
    transfer_seeds = chosen.seeds if chosen.transfer_seeds is None else chosen.transfer_seeds
    for seed in seeds:
        for name in ("untouched", *chosen.objectives):
            if chosen.loss_alone and name == "untouched" and seed > seeds[0]:
                continue  # the same for every seed
            for is_mirrored in (False,) if chosen.loss_alone else (False, True):
                key = {"objective": name, "seed": seed, "mirrored": is_mirrored}
                wanted = ("mlm",) if chosen.loss_alone else ("sts", "transfer") if seed - seeds[0] < transfer_seeds else ("sts",)
                missing = [figure for figure in wanted if not any(row.items() >= key.items() and figure in row for row in rows.found)]
                if missing:
                    folder = start if name == "untouched" else trained(name, seed, start, text, chosen)
                    rows.add(**key, **measured(folder, seed, chosen, missing, is_mirrored=is_mirrored))
    summary = [summed_up(rows.found, name, is_mirrored) for is_mirrored in (False, True) for name in ("untouched", *chosen.objectives)]
    summary = [row for row in summary if row["seeds"]]
    show(summary)
    RESULTS.mkdir(exist_ok=True)
    content = {"command": command_line(), "machine": machine(), "model": str(chosen.model), "tokens": chosen.tokens}
    (RESULTS / f"{chosen.results}.json").write_text(
        json.dumps({**content, "summary": summary, "rows": rows.found}, indent=2) + "\n", encoding="utf-8"
    )


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(__file__).parents[2] / "shared"
    parser.add_argument("--model", type=Path, help="snapshot of tain-mini's training whose weights all start from, or tain-mini")
    parser.add_argument("--objectives", nargs="+", choices=[*OBJECTIVES, *BY_BATCH], default=list(OBJECTIVES))
    parser.add_argument("--results", default="objectives", help="name of the results file; another one for other objectives")
    parser.add_argument("--tokens", type=float, default=5e5, help="tokens that each run passes through the encoder")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="AdamW's, of all runs")
    parser.add_argument("--work", type=Path, default=Path("runs/objectives"), help="folder for models and rows")
    parser.add_argument("--data", type=Path, default=shared / "data")
    parser.add_argument("--corpus", type=Path, default=shared / "corpus")
    parser.add_argument(
        "--transfer-seeds", type=int, help="measure the transfer tasks, which take longest, with this number of seeds; default: all"
    )
    parser.add_argument("--loss-alone", action="store_true", help="measure the validation loss and nothing else; no model is mirrored")
    parser.add_argument("--plot", action="store_true", help="only draw the plot")
    chosen = parser.parse_args()
    if chosen.model is None and not chosen.plot:
        parser.error("give --model, or --plot to draw earlier results")
    return chosen


def excerpt(chosen):
    """The text of all runs, as long as a third of their tokens."""
    path = chosen.work / "text.txt"
    if path.exists():
        return path
    wanted, kept = chosen.tokens / VISITS * CHARACTERS_A_TOKEN, []
    for sentence in read_sentences(str(chosen.corpus / "enwiki_core.txt.xz")):
        if sentence.begins_document and wanted <= 0:
            break
        if sentence.begins_document and kept:
            kept.append("")
        kept.append(sentence.text)
        wanted -= len(sentence.text)
    with whole_file(path) as partial:
        partial.write_text("\n".join(kept) + "\n", encoding="utf-8")
    return path


def centred(chosen):
    if str(chosen.model) == "tain-mini":
        return "tain-mini"  # centred as it is shipped
    folder = chosen.work / "start"
    if not folder.exists():
        with whole_folder(folder) as partial:
            write_centred(chosen.model, partial)
    return folder


def trained(name, seed, start, text, chosen):
    folder = chosen.work / f"{name.replace(' ', '-')}-{seed}"
    if not folder.exists():
        settings = {"batch_blocks": BATCH_BLOCKS, **(OBJECTIVES | BY_BATCH)[name]}
        pretrain(
            start,
            [text],
            folder,
            tokens=chosen.tokens,
            masking_rate=RATE,
            block_tokens=BLOCK_TOKENS,
            optimizer="adamw",
            learning_rate=chosen.learning_rate,
            weight_decay=0.01,
            warmup_steps=10,
            decay_share=1.0,
            seed=seed,
            shards=chosen.work / "shards",
            **settings,
        )
    return folder


def measured(folder, seed, chosen, wanted, *, is_mirrored):
    """The figures of ``wanted``: transfer, mlm, and sts with all that is measured beside it."""
    began_s = time.monotonic()
    found, sets = {}, {}
    embedder = None
    if is_mirrored:
        texts = (chosen.data / "mirror_corpus" / TEXTS["sentence"]).read_text(encoding="utf-8").splitlines()
        embedder = mirror(folder, texts, level="sentence", seed=seed, **MIRROR).embedder
    elif wanted != ["mlm"]:
        embedder = Embedder.load(folder, pooling="mean")
    if not is_mirrored and ("mlm" in wanted or "sts" in wanted):
        predictor = MaskedPredictor.load(str(folder))
        held_out = [line for path in sorted(chosen.corpus.glob("valid_*")) for line in islice(read_texts(path), VALIDATION_LINES)]
        found["mlm"] = round(predictor.explored_loss(held_out, block_tokens=BLOCK_TOKENS, passes=7, seed=0).loss, 4)
    if "sts" in wanted and embedder is not None:
        sts = scores(embedder, "sentence", chosen.data, "test")
        words = scores(embedder, "word", chosen.data, "test")
        found |= {"sts": mean_of(sts), "words": mean_of(words)}
        sets |= {**sts, **words}
    if "transfer" in wanted and embedder is not None:
        (suite,) = evaluate([embedder], ("transfer",), chosen.data, resamples=10).suites
        transfer = {row.key: round(row.figures[0].value, 2) for group in suite.groups for row in group.rows}
        found |= {"transfer": mean_of(transfer)}
        sets |= transfer
    return {**found, "sets": sets, "seconds": round(time.monotonic() - began_s, 1)}


def mean_of(figures):
    return round(float(np.mean(list(figures.values()))), 2)


def summed_up(rows, name, is_mirrored):
    mine = [row for row in rows if row["objective"] == name and row["mirrored"] == is_mirrored]
    summary = {"objective": name, "mirrored": is_mirrored, "seeds": len({row["seed"] for row in mine})}
    for figure in FIGURES:
        values = [row[figure] for row in mine if figure in row]
        if values:
            spread = round(float(np.std(values, ddof=1)), 3) if len(values) > 1 else None
            summary[figure] = [round(float(np.mean(values)), 3), spread]
    return summary


def show(summary):
    print(f"{'':32}" + "".join(f"{name:>24}" for name in FIGURES.values()))
    for row in summary:
        cells = [(f"{row[figure][0]:17.2f}", row[figure][1]) if figure in row else ("", None) for figure in FIGURES]
        spread = [f"{mean:>17}" + (f" ±{deviation:5.2f}" if deviation is not None else " " * 7) for mean, deviation in cells]
        print(f"{row['objective'] + (', mirrored' if row['mirrored'] else ''):32}" + "".join(spread))


def draw():
    """One row an objective: mean STS as pretrained (hollow) and mirrored (filled)."""
    from plotting import BLUE, dumbbell, name_rows, save, start

    found = json.loads((RESULTS / "objectives.json").read_text(encoding="utf-8"))
    rows = {(row["objective"], row["mirrored"]): row for row in found["summary"] if "sts" in row}
    names = [name for name in ("untouched", *OBJECTIVES) if (name, True) in rows]
    best = max(names, key=lambda name: rows[name, True]["sts"][0])
    title = "none of the objectives beats the weights that all start from" if best == "untouched" else f"{best} comes first"
    figure, (axes,) = start(
        f"At equal cost and mirrored, {title}",
        note="hollow: as pretrained; filled: mirrored; bars: one standard deviation to either side; in brackets: validation loss as pretrained",
        height=0.48 * len(names) + 1.3,
    )
    for y, name in enumerate(names):
        (alone, spread_alone), (mirrored, spread) = (rows[name, is_mirrored]["sts"] for is_mirrored in (False, True))
        axes.errorbar(alone, y, xerr=spread_alone or 0.0, color="#555555", elinewidth=2, capsize=3)  # None of a single seed
        dumbbell(axes, y, hollow=alone, filled=mirrored, spread=spread or 0.0, colour=BLUE)
    name_rows(axes, [f"{name} ({rows[name, False]['mlm'][0]:.2f})" for name in names])
    axes.set_xlabel(f"mean STS, Spearman x 100, {max(row['seeds'] for row in rows.values())} seeds")
    save(figure, "objectives.svg")


if __name__ == "__main__":
    main()

"""At which pretraining loss does mirroring begin to pay? Raw and mirrored STS (dev sets) of a run's snapshots.

Every snapshot is centred as the shipped model is, and mirrored with its settings (``ship_mini.py``). Points of the results file stay, so that
a later model joins the curve of those whose snapshots are gone.

    python benchmarks/mini_curve.py runs/.mini.pretrain src/tain/assets/tain_mini
    python benchmarks/mini_curve.py --plot        (draws docs/mini-curve.svg from the results)
"""

import json
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np

from measuring import RESULTS, command_line, machine
from mirror_gain import TEXTS, scores
from plotting import BLUE, BROWN, GREY, save, start
from ship_mini import MIRROR, write_centred
from tain.models.embedder import Embedder
from tain.recipes.mirror.recipe import mirror

DATA = Path(__file__).parents[2] / "shared" / "data"


def points(folders):
    """(tokens, validation loss, model folder) of every snapshot, and of finished models, by tokens."""
    found = {}
    for folder in map(Path, folders):
        if (folder / "tain.json").exists():
            tokens, loss = json.loads((folder / "tain.json").read_text())["validation"][-1]
            found[tokens] = (loss, folder)
            continue
        log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        for snapshot in folder.glob("snapshot-*M"):
            millions = int(snapshot.name.removeprefix("snapshot-").removesuffix("M"))
            entry = min(log, key=lambda line, m=millions: abs(line["tokens"] - m * 1e6))
            if abs(entry["tokens"] - millions * 1e6) < 1e5:
                found.setdefault(entry["tokens"], (entry["validation_loss"], snapshot))
    return [(tokens, *found[tokens]) for tokens in sorted(found)]


def main():
    if sys.argv[1:] == ["--plot"]:
        draw(json.loads((RESULTS / "mini_curve.json").read_text(encoding="utf-8"))["points"])
        return
    texts = (DATA / "mirror_corpus" / TEXTS["sentence"]).read_text(encoding="utf-8").splitlines()
    file = RESULTS / "mini_curve.json"
    earlier = json.loads(file.read_text(encoding="utf-8"))["points"] if file.exists() else []
    rows = {row["tokens"]: row for row in earlier}
    for tokens, loss, folder in points(sys.argv[1:]):
        config = json.loads((folder / "config.json").read_text())
        with tempfile.TemporaryDirectory() as scratch:
            centred = folder
            if not config.get("norm_bias"):  # what is shipped is centred already
                write_centred(folder, Path(scratch))
                centred = Path(scratch)
            raw = scores(Embedder.load(centred, pooling="mean"), "sentence", DATA, "dev")
            mirrored = scores(mirror(centred, texts, **MIRROR).embedder, "sentence", DATA, "dev")
        shape = f"{config['num_hidden_layers']} x {config['hidden_size']}"
        rows[tokens] = {"tokens": tokens, "loss": loss, "shape": shape, **MIRROR, "raw": raw, "mirrored": mirrored}
        print(json.dumps(rows[tokens]), flush=True)
    rows = [rows[tokens] for tokens in sorted(rows)]
    RESULTS.mkdir(exist_ok=True)
    content = {"command": command_line(), "machine": machine(), "points": rows}
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    draw(rows)


def draw(rows):
    """Mean of the dev sets against the loss, which falls to the right: one line untouched, one mirrored."""
    losses = [row["loss"] for row in rows]
    series = {name: [float(np.mean(list(row[name].values()))) for row in rows] for name in ("mirrored", "raw")}
    gains = [mirrored - raw for mirrored, raw in zip(series["mirrored"], series["raw"], strict=True)]
    if min(gains) > 0:
        finding = f"Mirroring gains {gains[-1]:.0f} points at a loss of {losses[-1]:.2f}, and gained at every loss before"
    else:
        finding = "Mirroring against pretraining loss"
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    note = f"numbers at the points: tokens seen; one seed; layers x width: {', '.join(shapes)} from left to right"
    figure, (axes,) = start(finding, note=note, height=4.4)
    for name, style, colour in (("mirrored", "o-", BLUE), ("raw", "s--", BROWN)):
        axes.plot(losses, series[name], style, color=colour, linewidth=2, markersize=5)
        words = f"{name} {series[name][-1]:.1f}"
        axes.annotate(words, (losses[-1], series[name][-1]), xytext=(9, 0), textcoords="offset points", va="center", color=colour)
    for row, value in zip(rows, series["mirrored"], strict=True):
        tokens = f"{row['tokens'] / 1e6:,.0f}M"
        axes.annotate(tokens, (row["loss"], value), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8, color=GREY)
    for row, before in pairwise(reversed(rows)):
        if row["shape"] != before["shape"]:  # another model
            axes.axvline((row["loss"] + before["loss"]) / 2, color="#bbbbbb", linestyle=":")
    span = max(losses) - min(losses)
    axes.set_xlim(max(losses) + 0.05 * span, min(losses) - 0.17 * span)
    axes.grid(axis="y")
    axes.set_ylabel("mean Spearman x 100 of STS-B dev and SICK trial")
    axes.set_xlabel("validation loss, nats")
    save(figure, "mini-curve.svg")


if __name__ == "__main__":
    main()

"""At which pretraining loss does mirroring begin to pay? Raw and mirrored STS (dev sets) of a run's snapshots.

Every snapshot is centred as the shipped model is, and mirrored with its settings (``ship_mini.py``). Points of the results file stay, so that
a later model joins the curve of those whose snapshots are gone.

python benchmarks/mini_curve.py runs/.mini.pretrain src/tain/assets/tain_mini
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from measuring import RESULTS, command_line, machine
from mirror_gain import TEXTS, scores
from ship_mini import MIRROR, write_centred
from tain.models.embedder import Embedder
from tain.recipes.mirror.recipe import mirror

DATA = Path(__file__).parents[2] / "shared" / "data"
PLOT = Path(__file__).parents[1] / "docs" / "mini-curve.svg"


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
    PLOT.write_text(drawn(rows), encoding="utf-8")


def drawn(rows):
    """Loss to the right falling, mean of the dev sets upwards; one line untouched, one mirrored."""
    width, height, left, right, top, bottom = 720, 420, 64, 120, 56, 56
    losses = [row["loss"] for row in rows]
    series = {name: [float(np.mean(list(row[name].values()))) for row in rows] for name in ("mirrored", "raw")}
    low, high = min(map(min, series.values())) - 2, max(map(max, series.values())) + 2
    span = max(losses) - min(losses) or 1.0

    def index(loss, value):
        return left + (max(losses) - loss) / span * (width - left - right), top + (high - value) / (high - low) * (height - top - bottom)

    gain = series["mirrored"][-1] - series["raw"][-1]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{left}" y="28" font-size="16" fill="#111">Mirroring gains {gain:.0f} points at a loss of {losses[-1]:.2f}, and gained at every loss before</text>'
        if all(m > r for m, r in zip(series["mirrored"], series["raw"], strict=True))
        else f'<text x="{left}" y="28" font-size="16" fill="#111">Mirroring against pretraining loss</text>',
    ]
    for value in range(int(low // 5 * 5 + 5), int(high) + 1, 5):
        _, y = index(losses[0], value)
        parts.append(
            f'<line x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/><text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#555">{value}</text>'
        )
    for row in rows:
        x, _ = index(row["loss"], low)
        parts.append(f'<text x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle" fill="#555">{row["loss"]:.2f}</text>')
        parts.append(
            f'<text x="{x:.1f}" y="{height - bottom + 33}" text-anchor="middle" fill="#999" font-size="11">{row["tokens"] / 1e6:,.0f}M</text>'
        )
    for row, before in zip(rows[1:], rows, strict=False):
        if row["shape"] != before["shape"]:  # another model
            x, _ = index((row["loss"] + before["loss"]) / 2, low)
            parts.append(
                f'<text x="{x:.1f}" y="{height - bottom + 33}" text-anchor="middle" fill="#999" font-size="11">{before["shape"]} | {row["shape"]}</text>'
            )
    for name, dash, colour in (("mirrored", "", "#0b5cad"), ("raw", ' stroke-dasharray="5 4"', "#7a4a00")):
        spots = [index(loss, value) for loss, value in zip(losses, series[name], strict=True)]
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="2.5"{dash} points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in spots)}"/>'
        )
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in spots]
        parts.append(f'<text x="{spots[-1][0] + 10:.1f}" y="{spots[-1][1] + 4:.1f}" fill="{colour}">{name} {series[name][-1]:.1f}</text>')
    parts.append(f'<text x="{left}" y="{top - 10}" fill="#555">mean Spearman x 100 of STS-B dev and SICK trial</text>')
    parts.append(
        f'<text x="{width - right}" y="{height - 8}" text-anchor="end" fill="#555">validation loss, nats (and tokens seen); one seed</text></svg>'
    )
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    main()

"""Draw docs/before-after.svg from the saved figures of mirror_gain.py."""

import json

from measuring import RESULTS
from plotting import BLUE, dumbbell, name_rows, save, start

TITLES = {"sts12": "STS12", "sts14": "STS14", "sts15": "STS15", "stsb": "STS-B", "sick": "SICK-R", "simlex999": "SimLex-999"}
TITLES |= {"multisimlex_eng": "Multi-SimLex (en)", "men": "MEN", "wordsim353": "WordSim-353", "rareword": "RareWord"}


def main():
    rows = []
    for name in ("mini_gain_sentence", "mini_gain_word"):
        content = json.loads((RESULTS / f"{name}.json").read_text())
        after = content["runs"][0]
        rows += [
            (TITLES[key], raw, after["mirrored"][key], after["deviation"][key]) for key, raw in content["raw"].items() if key in TITLES
        ]
    raised = sum(after > raw for _, raw, after, _ in rows)
    figure, (axes,) = start(
        f"Mirroring raises tain-mini on {raised} of these {len(rows)} sets, without labels",
        note="hollow: untouched; filled: mirrored, mean of 5 seeds; bar: one standard deviation to either side",
        height=0.36 * len(rows) + 1.3,
    )
    for y, (_, raw, after, spread) in enumerate(rows):
        dumbbell(axes, y, hollow=raw, filled=after, spread=spread)
        end = max(raw, after + spread)
        axes.annotate(f"{raw:.0f} → {after:.0f}", (end, y), xytext=(9, 0), textcoords="offset points", va="center", color=BLUE)
    name_rows(axes, [title for title, *_ in rows])
    axes.set_xlim(0, 10 * (int(max(after for _, _, after, _ in rows) / 10) + 2))
    axes.set_xlabel("Spearman x 100")
    save(figure, "before-after.svg")


if __name__ == "__main__":
    main()

"""Draw docs/before-after.svg from the saved figures of beyond.py and words.py."""

import json

from measuring import RESULTS
from plotting import BLUE, BROWN, GREY, dumbbell, name_rows, save, start

SENTENCES = {"sts12": "STS12", "sts14": "STS14", "sts15": "STS15", "stsb": "STS-B", "sick": "SICK-R"}
WORDS = {
    "simlex999": "SimLex-999",
    "multisimlex_eng": "Multi-SimLex (en)",
    "men": "MEN",
    "wordsim353": "WordSim-353",
    "rareword": "RareWord",
}
# results file -> sets, rows of the untouched model, of input embeddings, of counting, and of ours
FILES = {
    "beyond": (SENTENCES, "raw", "static:tain-mini", "lexical", "best, 4,000 pairs"),
    "words": (WORDS, "raw", "static:tain-mini", "ppmi-svd", "best, with documents"),
}


def main():
    rows = []
    for name, (titles, *labels) in FILES.items():
        table = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["table"]
        rows += [(title, *(table[label]["scores"][key] for label in labels)) for key, title in titles.items()]
    won = sum(ours > max(others) for _, *others, ours in rows)
    figure, (axes,) = start(
        f"Without labels, tain-mini beats what needs no training on {won} of {len(rows)} sets",
        note="blue: recipe best (sentences five seeds, words two); hollow: the untouched model;\n"
        "triangle: its input embeddings, whitened; cross: counting (word overlap; for words PPMI and SVD on the same text)",
        height=0.36 * len(rows) + 1.4,
    )
    for y, (_, raw, static, counted, ours) in enumerate(rows):
        dumbbell(axes, y, hollow=raw, filled=ours, spread=0)
        axes.plot(static, y, "^", color=GREY, markersize=6, zorder=2)
        axes.plot(counted, y, "x", color=BROWN, markersize=6.5, markeredgewidth=1.8, zorder=2)
        axes.annotate(
            f"{ours:.0f}", (max(raw, static, counted, ours), y), xytext=(9, 0), textcoords="offset points", va="center", color=BLUE
        )
    name_rows(axes, [title for title, *_ in rows])
    axes.set_xlim(0, max(max(values) for _, *values in rows) + 6)
    axes.set_xlabel("Spearman x 100")
    save(figure, "before-after.svg")


if __name__ == "__main__":
    main()

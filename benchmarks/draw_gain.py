"""Draw docs/before-after.svg from the saved figures of mirror_gain.py."""

import json
from pathlib import Path

from measuring import RESULTS

PLOT = Path(__file__).parents[1] / "docs" / "before-after.svg"
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
    PLOT.write_text(drawn(rows), encoding="utf-8")


def drawn(rows):
    width, left, right, top, step = 720, 150, 110, 64, 30
    height = top + step * len(rows) + 50
    high = 10 * (int(max(after + spread for _, _, after, spread in rows) / 10) + 1)
    raised = sum(after > raw for _, raw, after, _ in rows)

    def x(value):
        return left + value / high * (width - left - right)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{left}" y="26" font-size="16" fill="#111">Mirroring raises tain-mini on {raised} of these {len(rows)} sets, without a label</text>',
        f'<text x="{left}" y="46" fill="#555">hollow: untouched; filled: mirrored, mean of 5 seeds, bar: one standard deviation</text>',
    ]
    for value in range(0, high + 1, 10):
        parts.append(f'<line x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{top}" y2="{height - 44}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{x(value):.1f}" y="{height - 28}" text-anchor="middle" fill="#555">{value}</text>')
    for number, (title, raw, after, spread) in enumerate(rows):
        y = top + step * (number + 0.5)
        parts += [
            f'<text x="{left - 12}" y="{y + 4:.1f}" text-anchor="end" fill="#111">{title}</text>',
            f'<line x1="{x(raw):.1f}" x2="{x(after):.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="#9bb8d8" stroke-width="3"/>',
            f'<line x1="{x(after - spread):.1f}" x2="{x(after + spread):.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="#0b3d75" stroke-width="7" opacity="0.45"/>',
            f'<circle cx="{x(raw):.1f}" cy="{y:.1f}" r="5" fill="#fff" stroke="#555" stroke-width="1.8"/>',
            f'<circle cx="{x(after):.1f}" cy="{y:.1f}" r="5.5" fill="#0b3d75"/>',
            f'<text x="{x(max(raw, after + spread)) + 10:.1f}" y="{y + 4:.1f}" fill="#0b3d75">{raw:.0f} → {after:.0f}</text>',
        ]
    parts.append(f'<text x="{width - right}" y="{height - 8}" text-anchor="end" fill="#555">Spearman x 100</text></svg>')
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    main()

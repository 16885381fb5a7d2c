"""The comparison as a section of the winner's model card."""

from typing import Any


def card_part(content: dict[str, Any]) -> str:
    """The comparison as a section of the model card."""
    rows = []
    for row in content["candidates"]:
        if "skipped" in row:
            rows.append(f"| {row['candidate']} | not tried: {row['skipped'].replace('|', '/')} | | |")
            continue
        of = row["self_retrieval"]
        behind = "–" if of["behind"] == 0 else f"-{of['behind']:.3f} [{-of['behind_interval'][1]:.3f} {-of['behind_interval'][0]:.3f}]"
        rows.append(
            f"| {row['candidate']} | {of['value']:.3f} [{of['interval'][0]:.3f} {of['interval'][1]:.3f}] | {behind} | {row['made_s']:.0f} s |"
        )
    lines = "\n".join(rows)
    return (
        f"\n## Compared\n\n`tain compare` tried these on {content['counts']['train']:,} texts and measured them on"
        f" {content['counts']['held_out']:,} others, without labels (self-retrieval MRR, 95% bootstrap intervals):\n\n"
        f"| candidate | MRR | difference to the first | made in |\n|---|---|---|---|\n{lines}\n\n{' '.join(content['advice'])}\n"
    )


UNTOUCHED = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, sentence-similarity, tain]
---

# raw

`{model}`, unchanged, as an encoder: the mean of its token vectors, or the pooling that its folder names.
"""

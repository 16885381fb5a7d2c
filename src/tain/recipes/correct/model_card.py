"""The model card of an encoder with a correction, written from its record."""

from typing import Any

_WHAT = {
    "languages": "the directions that the vectors of one language share are taken out of them (Yang et al. 2021, CMLM)",
    "whiten": "its vectors are centred, turned to their principal components and brought to variance 1 in each",
    "remove-top": "its vectors are centred and their strongest principal components taken out (Mu and Viswanath 2018)",
}


def correction_card(name: str, record: dict[str, Any]) -> str:
    """Write the card.

    Args:
        name: The encoder's name.
        record: What ``tain.json`` keeps.
    """
    correction = record["correction"]
    by_language = correction["method"] == "languages"
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, sentence-similarity, tain]
---

# {name}

`{record["corrected_from"]}` with a correction of its vectors, fitted without labels: {_WHAT[correction["method"]]}.

## Use

{_use_by_language(name, correction) if by_language else _use(name)}
## Figures

{_language_figures(correction) if by_language else _linear_figures(correction)}
They describe the texts that the correction was fitted on. Whether it helps is a question for your own task: it can hurt.
Every setting is in `tain.json`.
"""


def _use(name: str) -> str:
    return f"""```python
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("{name}").encode(["a first text", "a second text"])
```

tain gives the same vectors: `Embedder.load("{name}").encode([...])`.
"""


def _use_by_language(name: str, correction: dict[str, Any]) -> str:
    first = next(iter(correction["languages"]))
    return f"""```python
from tain import Embedder

vectors = Embedder.load("{name}").encode(["a first text", "a second text"], language="{first}")
```

**sentence-transformers does not apply this correction.** It reads this folder and gives the vectors before the correction, because it
is not told the language of a text. Use tain.
"""


def _language_figures(correction: dict[str, Any]) -> str:
    rows = "\n".join(
        f"| {code} | {fit['texts']:,} | {100 * fit['removed_share']:.1f}% | {fit['cosine_to_mean']:.3f} | {fit['mean_before']:.3f} |"
        f" {fit['mean_after']:.3f} |"
        for code, fit in correction["languages"].items()
    )
    return f"""{correction["components"]} removed of each language.

| language | texts | share of squared length removed | cosine of the first direction to the mean | mean before | mean after |
|---|---|---|---|---|---|
{rows}

Mean: length of the mean vector over the vectors' root mean square length.
"""


def _linear_figures(correction: dict[str, Any]) -> str:
    return (
        f"Fitted on {correction['texts']:,} texts; {100 * correction['removed_share']:.1f}% of the variance taken out; vectors of"
        f" {correction['dim']} numbers. Length of the mean vector over the vectors' root mean square length before:"
        f" {correction['mean_before']:.3f}, after: 0.\n"
    )

"""Write the model card of a corrected encoder from its record."""

from typing import Any

_WHAT = {
    "languages": "directions that all vectors of one language share are removed (Yang et al. 2021, CMLM)",
    "whiten": "vectors are centred, rotated to their principal components and scaled towards equal variance",
    "remove-top": "vectors are centred and their strongest principal components removed (Mu and Viswanath 2018)",
}


def correction_card(name: str, record: dict[str, Any]) -> str:
    """Write the card.

    Args:
        name: The encoder's name.
        record: Contents of ``tain.json``.
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
The figures describe the texts that the correction was fitted on. It can also hurt: evaluate it on your own task. Every setting is in
`tain.json`.
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

**sentence-transformers does not apply this correction.** It loads this folder and returns the vectors without the correction, because it
does not know the language of a text. Use tain.
"""


def _language_figures(correction: dict[str, Any]) -> str:
    rows = "\n".join(
        f"| {code} | {fit['texts']:,} | {100 * fit['removed_share']:.1f}% | {fit['cosine_to_mean']:.3f} | {fit['mean_before']:.3f} |"
        f" {fit['mean_after']:.3f} |"
        for code, fit in correction["languages"].items()
    )
    return f"""Components removed per language: {correction["components"]}.

| language | texts | share of squared length removed | cosine of the first direction to the mean | mean before | mean after |
|---|---|---|---|---|---|
{rows}

Mean: length of the mean vector over the vectors' root mean square length.
"""


def _linear_figures(correction: dict[str, Any]) -> str:
    return (
        f"Fitted on {correction['texts']:,} texts; {100 * correction['removed_share']:.1f}% of the variance removed;"
        f" {correction['dim']} dimensions. Length of the mean vector over the vectors' root mean square length before:"
        f" {correction['mean_before']:.3f}, after: 0.\n"
    )

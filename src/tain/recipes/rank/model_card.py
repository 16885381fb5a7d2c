"""Write the model card of a ranker from its record."""

from typing import Any

from tain.recipes.rank.config import KINDS


def figure_rows(before: dict[str, float] | None, after: dict[str, float] | None) -> list[tuple[str, str, str]]:
    """Figures as rows of (name, before, after); empty without any."""
    if after is None:
        return []
    return [(name, f"{before[name]:.1f}" if before else "–", f"{value:.1f}") for name, value in after.items()]


def html_summary(result: Any) -> str:
    """The figures of a ``Ranked`` as HTML, for display in a notebook."""
    from tain.foundation.ruled_table import as_html, ruled_table

    table = ruled_table("figure x 100", "untrained", "trained", gap=2)
    for row in figure_rows(result.before, result.after):
        table.add_row(*row)
    measured = [table, f"on {result.measured_on}"] if result.after is not None else []
    worse = [f"worse than the untrained ranker: {reason}" for reason in result.worse]
    where = [f"saved in {result.folder}"] if result.folder is not None else []
    return as_html(*measured, f"{result.counts['pairs']:,} pairs in {result.runs[result.best].steps} steps", *worse, *where)


def chosen_on_the_same(*, schedule: str | None, seeds: int) -> str:
    """Explain which choices were made on the held-out contexts, so that figures on them are too high.

    Args:
        schedule: Learning rate schedule, ``plateau`` or ``linear``.
        seeds: Number of trained seeds.
    """
    decided = ["which step's weights are kept"]
    if schedule == "plateau":
        decided.insert(0, "when the learning rate falls")
    if seeds > 1:
        decided.append("which seed is kept")
    listed = decided[0] if len(decided) == 1 else f"{', '.join(decided[:-1])} and {decided[-1]}"
    return (
        f"The same contexts decided {listed}, so the trained ranker's figures on them are too high: "
        "measure it on contexts that it has not seen, with `tain rank evaluate`."
    )


def ranker_card(name: str, type: str, record: dict[str, Any]) -> str:
    """Write the card.

    Args:
        name: The ranker's name.
        type: ``bi``, ``poly`` or ``cross``.
        record: Contents of ``tain.json``.
    """
    config, counts, kind = record["config"], record["counts"], KINDS[type]
    library = "sentence-transformers" if kind.is_in_sentence_transformers else "tain"
    rows = figure_rows(record["figures"]["before"], record["figures"]["after"])
    table = "\n".join(f"| {label} | {was} | {now} |" for label, was, now in rows)
    worse = f"\n**Looks worse than the untrained ranker:** {'; '.join(record['worse'])}.\n" if record["worse"] else ""
    chosen = chosen_on_the_same(schedule=config["schedule"], seeds=len(record["seeds"]))
    figures = (
        f"On {record['measured_on']}; x 100, ties by expectation:\n\n| figure | untrained | trained |\n|---|---|---|\n{table}\n\n{chosen}\n{worse}"
        if rows
        else "No contexts were held out, so nothing was measured.\n"
    )
    return f"""---
library_name: {library}
pipeline_tag: text-ranking
tags: [tain, {type}-encoder, text-ranking{", sentence-transformers" if kind.is_in_sentence_transformers else ""}]
---

# {name}

{kind.about} Made from `{record["base_model"]}` by `tain rank train` (Humeau et al. 2020, "Poly-encoders", ICLR).

## Use

```python
from tain import Ranker

ranker = Ranker.load("{name}")
scores = ranker.score(["a context"], ["a candidate", "another candidate"])  # (1, 2), higher is better
```
{_sentence_transformers(name, is_shared=config["shared_towers"]) if kind.is_in_sentence_transformers else ""}
## Recipe

- {counts["pairs"]:,} pairs of {counts["contexts"]:,} contexts and {counts["candidates"]:,} candidates; {record["steps"]} steps of {config["batch_contexts"]} contexts, {record["training_s"]:.0f} s in the training loop
- {_vectors(type, config)}
- {config["optimizer"]} at {config["learning_rate"]:.2g}, head at {config["head_learning_rate"]:.2g}, schedule {config["schedule"]}, {config["negatives"]} negatives per context{_sources(config)}
- contexts cut at {config["context_tokens"]} tokens (at the start), candidates at {config["candidate_tokens"]}: {counts["truncated"]:,} texts
- seed {record["best_seed"]} of {record["seeds"]}

Every setting is in `tain.json`.

## Figures

{figures}"""


def _sentence_transformers(name: str, *, is_shared: bool) -> str:
    encode = ("encode", "encode") if is_shared else ("encode_query", "encode_document")
    return f"""
or with sentence-transformers{"" if is_shared else " (5 or later)"}, whose dot products give the same ranking:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}")
scores = model.{encode[0]}(["a context"]) @ model.{encode[1]}(["a candidate", "another candidate"]).T
```
"""


def _vectors(type: str, config: dict[str, Any]) -> str:
    if KINDS[type].reads_pairs:
        return "one encoder, linear score on the first token"
    towers = "one encoder for both sides" if config["shared_towers"] else "two encoders trained separately"
    scaling = "outputs times 0.06, as in the released code" if config["paper_scaling"] else f"{config['similarity']} with a learned scale"
    codes = "" if KINDS[type].codes is None else f"{config['codes']} vectors per context ({config['code_kind']}), "
    frozen = {"nothing": "", "embeddings": ", word embeddings frozen", "encoder": ", encoder frozen: only codes and scale were trained"}
    return f"{codes}{towers}, pooling {config['pooling']}, {scaling}{frozen[config['freeze']]}"


def _sources(config: dict[str, Any]) -> str:
    mined = f" mined by `{config['mine_with']}`" if config["mine_with"] else ""
    taught = f"; scores distilled from `{config['teacher']}` (share {config['teacher_weight']})" if config["teacher"] else ""
    return mined + taught

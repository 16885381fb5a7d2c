"""Write the model card of a mirrored encoder from its record."""

from typing import Any

from tain.evaluation.label_free import TITLES

# the main figures; the others depend on the scale of vectors, or repeat these
MAIN_FIGURES = ("self_retrieval_mrr", "uniformity", "alignment", "mean_cosine")

CHOSEN_SEED = "The seed was chosen by these figures, so those of this encoder are slightly too high; the mean over seeds is not."


_OF_LEXICAL = ("self_retrieval_mrr", "self_retrieval_recall_at_1")  # figures that are comparable across kinds of vectors
_BELOW_BY = 0.01  # of MRR: a smaller difference is noise on a few hundred texts


def figure_rows(
    before: dict[str, Any] | None, after: dict[str, Any] | None, lexical: dict[str, Any] | None = None, *, all_figures: bool = False
) -> list[tuple[str, str, str, str, str]]:
    """Label-free figures as rows of (name, before, after, word overlap, which way is better), the main ones or all; empty without figures."""
    if before is None or after is None:
        return []
    rows = []
    for name in TITLES if all_figures else MAIN_FIGURES:
        label, better = TITLES[name]
        overlap = _number((lexical or {}).get(name)) if name in _OF_LEXICAL else "–"
        rows.append((label, _number(before.get(name)), _number(after.get(name)), overlap, better))
    return rows


def below_lexical(lexical: dict[str, Any] | None, after: dict[str, Any] | None) -> str:
    """Describe an encoder's self-retrieval that is worse than word overlap's; empty if it is not, or is unknown."""
    ours, theirs = ((report or {}).get("self_retrieval_mrr") for report in (after, lexical))
    if ours is None or theirs is None or theirs - ours <= _BELOW_BY:
        return ""
    return (
        f"the new encoder is below word overlap, a baseline without a model: self-retrieval MRR {ours:.3f} against {theirs:.3f} of lexical"
        " (compare them on your task: tain evaluate lexical ENCODER)"
    )


_STS = "mean Spearman of seven STS sets"
# Liu et al. 2021, means of three runs; by model, level and whether drophead was used
PUBLISHED = {
    ("bert-base-uncased", "sentence", False): (0.743, _STS),
    ("bert-base-uncased", "sentence", True): (0.754, _STS),
    ("roberta-base", "sentence", False): (0.753, _STS),
    ("roberta-base", "sentence", True): (0.764, _STS),
    ("bert-base-uncased", "word", False): (0.556, "Spearman on Multi-SimLex, English"),
    ("bert-base-uncased", "phrase", False): (0.872, "accuracy@1 on NCBI-disease"),
}


def published_figure(config: Any, base_model: str) -> str:
    """State the paper's figure for this model and level, for comparison; empty if there is none.

    Args:
        config: The settings of the run.
        base_model: The model's name; of a folder, the last part counts.
    """
    found = PUBLISHED.get((base_model.rstrip("/").rpartition("/")[2], config.level, config.drophead > 0))
    if config.recipe != "paper" or found is None:
        return ""
    value, what = found
    return f"the paper reports {value:.3f} for this model and level ({what}; Liu et al. 2021): tain evaluate measures yours"


def method_of(config: Any, *, is_paired: bool) -> str:
    """Name the method of a run, for the record and the card."""
    if config.recipe == "fast":
        has_neighbours = "neighbours" in config.positive_kinds
        vectors = "token vectors trained on neighbouring sentences" if has_neighbours else "whitened input embeddings"
        joined = f"joining the whitened model with {vectors}" if config.join else vectors
        return joined if has_neighbours else f"{joined} (no training)"
    if is_paired:
        return "Mirror-BERT (pairs of texts)"
    names = {"identity": "identity fine-tuning", "neighbours": "neighbouring sentences", "crops": "random crops"}
    named = " and ".join(names[kind] for kind in config.positive_kinds)
    return f"Mirror-BERT ({named})" if config.positive_kinds == ("identity",) else f"contrastive fine-tuning ({named})"


def spread_in_words(spread: dict[str, dict[str, float]], *, all_figures: bool = False) -> list[str]:
    """Mean and standard deviation over seeds of the main figures, or of all, one line each."""
    shown = [name for name in (TITLES if all_figures else MAIN_FIGURES) if name in spread]
    return [f"{TITLES[name][0]} {_number(spread[name]['mean'])} ± {_number(spread[name]['standard_deviation'])}" for name in shown]


def html_summary(result: Any) -> str:
    """The figures of a ``Mirrored`` as HTML, for display in a notebook."""
    from tain.foundation.ruled_table import as_html, ruled_table

    table = ruled_table("figure", "before", "after", "lexical", "better is", gap=2)
    reports = [report.to_dict() if report else None for report in (result.before, result.after, result.lexical)]
    for row in figure_rows(*reports):
        table.add_row(*row)
    curve = result.runs[result.best].curve
    said = [curve_in_words(curve.to_dict())] if curve is not None else []
    worse = [f"worse than the untouched model: {reason}" for reason in result.worse]
    where = [f"saved in {result.folder}"] if result.folder is not None else []
    return as_html(table, f"{result.texts:,} texts in {result.steps} steps", *said, *worse, *where)


_CURVE_POINTS = 8  # shown on the card; tain.json has all


def curve_in_words(curve: dict[str, Any] | None) -> str:
    """The learning curve as one sentence; empty without one.

    Args:
        curve: As ``CurveRecord.to_dict`` gives it.
    """
    if not curve or len(curve["points"]) < 2:
        return ""
    points = curve["points"]
    shown = sorted({round(at * (len(points) - 1) / (_CURVE_POINTS - 1)) for at in range(_CURVE_POINTS)})
    said = ", ".join(f"{points[at][1]:.3f} at step {points[at][0]}" for at in shown)
    last = points[-1][0]
    kept = f"; kept: the weights of step {curve['kept_step']}" if curve["kept_step"] != last else ""
    stopped = f"; training ended at a plateau after {last} steps" if curve["stopped_early"] else ""
    return f"{curve['figure']} during training: {said}{kept}{stopped}"


def size_rows(sizes: list[dict[str, Any]] | None) -> list[tuple[str, str, str, str]]:
    """Rows of (numbers kept, MRR before, MRR after, R@1 after) by vector length; empty without trained prefixes."""
    return [
        (
            str(size["dim"]),
            _number(size["before"]),
            _number(size["self_retrieval_mrr"]),
            _number(size["self_retrieval_recall_at_1"]),
        )
        for size in sizes or []
    ]


def _sizes_part(record: dict[str, Any]) -> str:
    """The section on vector lengths, with a blank line at its end; empty without trained prefixes."""
    if not (rows := size_rows(record.get("sizes"))):
        return ""
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return (
        "Vectors can be cut to a trained length: `SentenceTransformer(name, truncate_dim=N)`. Self-retrieval on the held-out texts:\n\n"
        f"| numbers | MRR, untouched model | MRR | R@1 |\n|---|---|---|---|\n{table}\n\n"
    )


def model_card(name: str, record: dict[str, Any]) -> str:
    """Write the card.

    Args:
        name: The encoder's name.
        record: Contents of ``tain.json``.
    """
    config = record["config"]
    what = "pairs" if record["pairs"] else "texts"
    lexical = record["figures"].get("lexical")
    rows = figure_rows(record["figures"]["before"], record["figures"]["after"], lexical)
    lines = spread_in_words(record["figures"]["spread"])
    table = "\n".join(f"| {label} | {was} | {now} | {overlap} | {better} |" for label, was, now, overlap, better in rows)
    figures = (
        f"Measured on {record['figures']['after']['texts']} held-out {what}, without labels, the untouched model's vectors pooled by "
        f"{record['figures']['pooling_before']}:\n\n"
        f"| figure | {record['base_model']} | this encoder | word overlap, no model | better is |\n|---|---|---|---|---|\n{table}\n"
        + (f"\nMean and standard deviation over {len(record['seeds'])} seeds: {', '.join(lines)}.\n" if lines else "")
        + (CHOSEN_SEED + "\n" if len(record["seeds"]) > 1 else "")
        if rows
        else "No texts were held out, so nothing was measured.\n"
    )
    worse = (
        f"\n**By these figures the encoder is worse than the untouched model:** {'; '.join(record['worse'])}.\n" if record["worse"] else ""
    )
    below = below_lexical(lexical, record["figures"]["after"])
    below = f"\n**By self-retrieval {below}.**\n" if below else ""
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, sentence-similarity, tain, mirror-bert]
---

# {name}

A {config["level"]} encoder made from `{record["base_model"]}` {_made(record)}. {_IN_WORDS[_kind_of(record)]}

## Use

```python
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("{name}").encode(["a first text", "a second text"])
```

or with tain, which is faster on a CPU:

```python
from tain import Embedder

vectors = Embedder.load("{name}").encode(["a first text", "a second text"])
```

## Recipe

{_training(record)}
- left out: {record["counts"]["repeated"]:,} repeated, {record["counts"]["held_out"]:,} held out, {record["counts"]["left_over"]:,} beyond the limit, {record["counts"]["not_read"]:,} not in a full batch or not reached in time; {record["counts"]["truncated"]:,} cut

Every setting is in `tain.json`.

## Figures

{figures}{worse}{below}
{_sizes_part(record)}{_curve_part(record)}Self-retrieval: two copies of a text, each without a block of its words, must find each other among all copies. More figures are in `tain.json`. They do not replace an
evaluation on your own task.
"""


def _curve_part(record: dict[str, Any]) -> str:
    sentence = curve_in_words(record.get("curve"))
    return f"{sentence[0].upper()}{sentence[1:]}.\n\n" if sentence else ""


_IN_WORDS = {
    "pairs": 'Training pulls the two texts of a pair together and pushes other texts apart (Liu et al. 2021, "Fast, Effective, and Self-Supervised", EMNLP).',
    "identity": 'Training pulls two views of a text together and pushes other texts apart (Liu et al. 2021, "Fast, Effective, and Self-Supervised", EMNLP).',
    "contrast": "Training pulls positive pairs together and pushes other texts apart.",
    "fast": "The model's layers are not used and word order is ignored: a text's vector is the weighted mean of its token vectors.",
    "joined": "The model's layers are not trained: its vectors are whitened and joined with token vectors, which ignore word order.",
}


def _made(record: dict[str, Any]) -> str:
    """Describe how it was made, as the end of a sentence."""
    kind = _kind_of(record)
    if kind == "pairs":
        return "from pairs of texts that mean the same, with Mirror-BERT"
    return f"without labels, by {'identity fine-tuning (Mirror-BERT)' if kind == 'identity' else record['method']}"


def _kind_of(record: dict[str, Any]) -> str:
    config = record["config"]
    if config["recipe"] == "fast":
        return "joined" if config["join"] else "fast"
    if record["pairs"]:
        return "pairs"
    return "identity" if config["positives"] in (None, "identity") else "contrast"


def _training(record: dict[str, Any]) -> str:
    """Describe data and training as list items."""
    config, kind = record["config"], _kind_of(record)
    lines = []
    if config["recipe"] == "fast":
        lines.append(f"{record['texts']:,} texts, to fit {'the whitening' if kind == 'joined' else 'token weights and whitening'}")
    else:
        what = "texts" if kind == "identity" else "pairs"
        lines.append(
            f"{record['texts']:,} {what}, {record['steps']} steps of {config['batch_texts']} {what} at most, {record['training_s']:.0f} s in the training loop"
        )
        if config.get("dims"):
            lines.append(f"the loss is summed over the whole vectors and their first {config['dims']} numbers (Kusupati et al. 2022)")
        dropped = f"dropout {config['dropout']}, drophead {config['drophead']}"
        of_kind = {
            "identity": "the text twice, {erased_chars} characters erased in one",
            "neighbours": "consecutive sentences of a document",
        }
        of_kind |= {"crops": "two random spans of a text"}
        positives = ["pair"] if record["pairs"] else (config["positives"] or "identity").split("+")
        named = ["the two texts of a pair" if each == "pair" else of_kind[each].format(**config) for each in positives]
        lines.append(f"two views: {'; '.join(named)}; {dropped}")
        optimizer = "AdamW" if config["optimizer"] != "muon" else f"Muon at {config['matrix_learning_rate']:.2g} on matrices, AdamW"
        lines.append(
            f"temperature {config['temperature']}, {optimizer} at {config['learning_rate']:.2g}, weight decay {config['weight_decay']}, pooling {config['pooling']}"
        )
        if config["anchor"]:
            lines.append(f"anchor {config['anchor']:g}: cosines are kept close to those of token vectors trained on the same positives")
        lines.append(f"trained on texts cut at {config['max_tokens']} tokens; seed {record['best_seed']} of {record['seeds']}")
    if config["join"]:
        of_words = "token vectors of neighbouring sentences and input embeddings"
        those = "those token vectors" if config["anchor"] else "token vectors" if kind == "joined" else of_words
        lines.append(f"joined with {those}: the second half of the model's width holds them and bypasses the layers")
        if (share := record.get("static_share")) is not None:
            by = share["chosen_by"]
            seen = ", so the figures of the held-out texts are slightly too high" if by in ("copies", "pairs") else ""
            lines.append(
                f"share of the token vectors in the similarity: {share['share']:g}{f', chosen by held-out {by}{seen}' if by else ''}"
            )
    if config["recipe"] == "fast" and config["positives"] == "neighbours":
        weighted = "" if kind == "joined" else "; tokens are weighted by their length"
        lines.append(f"token vectors trained on pairs of neighbouring sentences, {config['anchor_pairs']:,} at most{weighted}")
    elif config["token_weights"] == "sif":
        lines.append(f"tokens are weighted by smooth inverse frequency (a = {config['sif_smoothing']:g})")
    if config["whiten"]:
        lines.append(f"vectors are whitened with exponent {config['whiten']:g}")
    return "\n".join(f"- {line}" for line in lines)


def _number(value: object) -> str:
    if not isinstance(value, float):
        return "–"
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.0005 else f"{value:.0e}"

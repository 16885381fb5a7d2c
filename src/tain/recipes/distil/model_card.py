"""Write the model card of a student from its record."""

from typing import Any

from tain.recipes.distil.config import NONE

FIGURES = {
    "cosine": "mean cosine to the teacher's vector",
    "pairs": "Spearman of cosines between texts",
    "found": "texts whose own teacher vector is nearest",
    "student_accuracy": "accuracy, student",
    "teacher_accuracy": "accuracy, teacher",
    "student_slot_f1": "slot F1, student",
    "teacher_slot_f1": "slot F1, teacher",
    "student_exact": "texts without an error, student",
    "teacher_exact": "texts without an error, teacher",
    "agreement": "same label as the teacher",
}


def figure_rows(figures: dict[str, float]) -> list[tuple[str, str]]:
    """Measured figures as rows of (name, value)."""
    return [(label, f"{figures[name]:.3f}") for name, label in FIGURES.items() if name in figures]


def html_summary(result: Any) -> str:
    """Figures and sizes of a ``Distilled`` as HTML, for display in a notebook."""
    from tain.foundation.ruled_table import as_html, ruled_table

    figures, sizes = ruled_table("figure", "value", gap=2), ruled_table("size", "", gap=2)
    for row in figure_rows(result.figures):
        figures.add_row(*row)
    for row in size_rows(result.sizes):
        sizes.add_row(*row)
    where = [f"saved in {result.folder}"] if result.folder is not None else []
    return as_html(*([figures, ""] if result.figures else []), sizes, *where)


def size_rows(sizes: dict[str, int | None]) -> list[tuple[str, str]]:
    """Sizes as rows of (name, bytes)."""
    names = {
        "student_bytes": "all files of the student, eight-bit weights",
        "graph_bytes": "its graph alone",
        "float32_bytes": "the same weights in float32",
        "teacher_bytes": "the teacher's weights in float32",
    }
    return [(label, f"{value:,} bytes") for name, label in names.items() if (value := sizes.get(name)) is not None]


def student_card(name: str, record: dict[str, Any]) -> str:
    """Write the card.

    Args:
        name: The student's name.
        record: Contents of ``tain.json``.
    """
    config, counts = record["config"], record["counts"]
    call = "encode" if record["task"] == "embed" else "predict"
    figures = "\n".join(f"| {label} | {value} |" for label, value in figure_rows(record["figures"]))
    measured = (
        f"Measured with this folder's files on {counts['held_out']:,} held-out texts:\n\n| figure | value |\n|---|---|\n{figures}\n"
        if figures
        else "No texts were held out, or none had labels, so nothing was measured.\n"
    )
    sizes = "\n".join(f"| {label} | {value} |" for label, value in size_rows(record["sizes"]))
    of = "of the given labels alone" if record["teacher"] == NONE else f"of `{record['teacher']}`"
    knows = f"\nLabels: {', '.join(record['labels'])}.\n" if record["labels"] else ""
    knows += f"\nTags: {', '.join(record['tags'])}.\n" if record["tags"] else ""
    return f"""---
library_name: tain
tags: [tain, distillation, {config["student"]}]
---

# {name}

A {record["method"]} student (task: {record["task"]}) {of}, after Kaliamoorthi et al. 2021,
"Distilling Large Language Models into Tiny and Effective Students using pQRNN". It runs without GPU and torch.

## Use

```python
from tain import Student

found = Student.load("{name}").{call}(["a first text", "a second text"])
```
{knows}
## Recipe

- {counts["given"]:,} texts given: {counts["repeated"]:,} repeated, {counts["held_out"]:,} held out, {counts["left_over"]:,} beyond the limit; {counts["augmented"]:,} augmented copies added
- {record["steps"]:,} steps of {config["batch_texts"]} texts, {record["training_s"]:.0f} s; AdamW at {config["learning_rate"]:g}; seed {record["seed"]}

Every setting is in `tain.json`.

## Size

| what | size |
|---|---|
{sizes}

## Figures

{measured}"""

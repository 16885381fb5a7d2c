"""Complete a model card for the hub: metadata, usage block, and evaluation results in the hub's model-index form."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from tain.foundation.errors import UserError

_PIPELINES = {"encoder": "sentence-similarity", "ranker": "text-ranking", "masked language model": "fill-mask"}
_LOADED = re.compile(r"""((?:SentenceTransformer|CrossEncoder|\.load|tain\.load|from_pretrained)\()(["'])[^"'\n]*\2""")
_FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_FIGURES = {
    "self_retrieval_mrr": "self-retrieval MRR",
    "self_retrieval_recall_at_1": "self-retrieval R@1",
    "alignment": "alignment",
    "uniformity": "uniformity",
}
_TAGS = {"encoder": ["sentence-transformers", "feature-extraction", "sentence-similarity"], "ranker": ["text-ranking"]}


def completed_card(
    text: str,
    *,
    repo: str,
    record: Mapping[str, Any],
    is_sentence_transformers: bool,
    base_model: str | None = None,
    license: str | None = None,
    languages: Sequence[str] = (),
    evaluation: Mapping[str, Any] | None = None,
    folder_name: str = "",
) -> str:
    """Add what a card for the hub lacks; entries that are there are kept, except for model names in examples.

    Args:
        text: The folder's README.md; empty if there is none.
        repo: Name on the hub.
        record: The folder's ``tain.json``.
        is_sentence_transformers: Whether sentence-transformers loads the folder.
        base_model: Name of the base model on the hub.
        license: Identifier of the licence, as the hub lists them.
        languages: Language codes.
        evaluation: The JSON that ``tain evaluate -o`` wrote.
        folder_name: Name of the local folder, which cards have as their title.
    """
    import yaml
    from huggingface_hub import RepoCard

    try:
        card = RepoCard(text if text.lstrip().startswith("---") else f"---\n---\n{text}")
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"the metadata at the top of README.md is not valid YAML ({_first_line(error)}): correct it") from None
    kind = str(record.get("kind", "encoder"))
    data = card.data.to_dict()
    data.setdefault("library_name", "sentence-transformers" if is_sentence_transformers else "tain")
    if (pipeline := _PIPELINES.get(kind) or _pipeline_of_student(record)) is not None:
        data.setdefault("pipeline_tag", pipeline)
    data["tags"] = list(dict.fromkeys([*(data.get("tags") or []), *_TAGS.get(kind, []), "tain"]))
    if base_model is not None:
        data["base_model"] = base_model
    if license is not None:
        data["license"] = license
    languages = [languages] if isinstance(languages, str) else languages
    if languages:
        data["language"] = list(languages) if len(languages) > 1 else languages[0]
    results = [*label_free_results(record), *evaluation_results(evaluation or {})]
    if results:
        data["model-index"] = [{"name": repo.rpartition("/")[2], "results": results}]
    title = f"# {repo.rpartition('/')[2]}"
    body = card.text.strip("\n") or title
    if body.partition("\n")[0] == f"# {folder_name}":
        body = title + body[len(folder_name) + 2 :]
    body = _FENCE.sub(lambda found: _LOADED.sub(rf"\g<1>\g<2>{repo}\g<2>", found[0]), body)
    if not _FENCE.search(body):
        body += "\n\n" + usage(repo, kind=kind, is_sentence_transformers=is_sentence_transformers)
    if not re.search(r"^#+ (Recipe|Training)", body, re.MULTILINE) and (numbers := training_in_numbers(record)):
        body += f"\n\n## Training data\n\n{numbers}"
    return f"---\n{_yaml(data)}---\n\n{body}\n"


def label_free_results(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Label-free figures of a record as results of a model index, with the spread over seeds; empty without figures."""
    figures = record.get("figures") or {}
    after, spread = figures.get("after"), figures.get("spread") or {}
    if not isinstance(after, Mapping):
        return []
    metrics = []
    for name, title in _FIGURES.items():
        if isinstance(value := after.get(name), int | float):
            metrics.append({"type": name, "name": title, "value": round(float(value), 4)} | _spread(spread.get(name)))
    if not metrics:
        return []
    dataset = {"type": "held-out", "name": f"{after.get('texts', 'some')} held-out texts, without labels"}
    return [{"task": {"type": "sentence-similarity", "name": "Label-free"}, "dataset": dataset, "metrics": metrics}]


def evaluation_results(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Figures of the first model of an evaluation as results of a model index, with 95% intervals.

    Args:
        report: The JSON that ``tain evaluate -o`` wrote; empty gives no results.

    Raises:
        UserError: It is something else.
    """
    results = []
    try:
        for suite in report.get("suites", ()):
            for group in suite["groups"]:
                for row in group["rows"]:
                    figure = row["figures"][0]
                    if figure["value"] is None:
                        continue
                    metric = {"type": _metric_type(row["unit"] or row["key"]), "name": row["unit"] or row["title"]}
                    metric |= {"value": round(figure["value"], 4), "args": {"interval_95": _rounded(figure["interval"])}}
                    key = PurePath(str(row["key"])).name  # of a table of one's own, the key is its path
                    dataset = {"type": key, "name": PurePath(str(row["title"])).name, "split": str(report["split"])}
                    task = {"type": "sentence-similarity", "name": suite["title"]}
                    results.append({"task": task, "dataset": dataset, "metrics": [metric]})
    except (KeyError, TypeError, IndexError, AttributeError):
        raise UserError("the evaluation is not a report of tain evaluate: give the file that tain evaluate -o wrote") from None
    return results


def usage(repo: str, *, kind: str, is_sentence_transformers: bool) -> str:
    """A section with code that loads the model from the hub."""
    blocks = []
    if is_sentence_transformers and kind == "encoder":
        blocks.append(
            "```python\nfrom sentence_transformers import SentenceTransformer\n\n"
            f'vectors = SentenceTransformer("{repo}").encode(["a first text", "a second text"])\n```'
        )
    if kind == "encoder":
        blocks.append(f'```python\nimport tain\n\nvectors = tain.load("{repo}").encode(["a first text", "a second text"])\n```')
    elif kind == "ranker":
        blocks.append(
            f'```python\nimport tain\n\nscores = tain.load("{repo}").score("a question", ["a first answer", "a second answer"])\n```'
        )
    else:
        blocks.append(f'```python\nimport tain\n\nmodel = tain.load("{repo}")\n```')
    return "## Use\n\n" + "\n\nor\n\n".join(blocks)


def training_in_numbers(record: Mapping[str, Any]) -> str:
    """Texts, steps and what was left out, as a list; empty if the record has none of them."""
    lines = []
    if isinstance(texts := record.get("texts"), int):
        steps = f", {record['steps']:,} steps" if isinstance(record.get("steps"), int) else ""
        lines.append(f"- {texts:,} texts{steps}")
    counts = record.get("counts")
    if isinstance(counts, Mapping):
        named = [f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items() if isinstance(value, int) and value]
        lines += [f"- {', '.join(named)}"] if named else []
    return "\n".join(lines)


def _pipeline_of_student(record: Mapping[str, Any]) -> str | None:
    task = record.get("task") or (record.get("config") or {}).get("task")
    return {"embed": "sentence-similarity", "classify": "text-classification", "tag": "token-classification"}.get(str(task))


def _spread(found: object) -> dict[str, Any]:
    if not isinstance(found, Mapping) or not found:
        return {}
    return {"args": {name: round(float(value), 4) for name, value in found.items()}}


def _rounded(interval: Mapping[str, Any]) -> list[float | None]:
    return [None if interval[end] is None else round(interval[end], 4) for end in ("low", "high")]


def _metric_type(unit: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", unit.lower()).strip("_")


def _yaml(data: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

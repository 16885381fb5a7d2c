"""Put a finished run into the package as tain-mini, with its model card.

    python benchmarks/ship_mini.py runs/mini                                     (pretraining: shipped if its validation loss fell)
    python benchmarks/ship_mini.py runs/mini-contrast --second-stage --to runs/candidate      (contrast_mini.py: a folder to measure)
    python benchmarks/ship_mini.py runs/mini-contrast --second-stage --dev 72.1 73.4          (what best has on the dev sets, shipped and new)

A second stage is shipped if ``best`` from it, five seeds, gains half a point or more on the development sets (``beyond.py --split dev``).
"""

import argparse
import json
import shutil
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tain.batches.packing import batches_by_tokens, pack
from tain.batches.tokenizing import tokenise
from tain.foundation.old_names import renamed
from tain.models.embedder import Embedder
from tain.models.masked_lm import MaskedPredictor
from tain.text.readers import read_texts

ASSET = Path(__file__).parents[1] / "src" / "tain" / "assets" / "tain_mini"
LARGEST_BYTES = 40 * 2**20
LEAST_GAIN = 0.2  # nats: a smaller gain does not justify another binary in git
CORPUS = Path(__file__).parents[2] / "shared" / "corpus"
CORPUS_TOKENS = 64_950_564  # of its training files, cut by tain-mini's tokenizer
CENTRING_LINES = 1000  # of each validation file
MIRROR: dict[str, Any] = {"learning_rate": 3e-4, "dropout": 0.05}  # found on the dev sets of STS-B and SICK: docs/LOG.md
SECOND_MIRROR: dict[str, Any] = {**MIRROR, "matrix_learning_rate": 0.002, "max_pairs": 4000}  # the model has seen 200,000 pairs already
SECOND_STAGE_DATA = "The second stage also read 75,000 further articles of the English Wikipedia. "
SECOND_STAGE_COMMAND = (
    "\n    python benchmarks/contrast_mini.py      (the second stage; the shipped weights are of a draft of it, see docs/LOG.md)"
)
LEAST_DEV_GAIN = 0.5  # points of best on the development sets, mean of five seeds


def card(record):
    config = renamed(record["config"], of="pretrain")
    tokens, loss = record["validation"][-1]
    shape = (
        f"{config['architecture']} layout, {config['layers']} layers x {config['hidden_size']}, feed-forward {config['intermediate_size']}"
    )
    return f"""---
license: cc-by-sa-3.0
language: en
pipeline_tag: fill-mask
tags: [tain, masked-language-model]
---

# tain-mini

A small English masked language model, trained from scratch on the texts below, so that tain works offline. It does not replace models that were trained for weeks
on far more text. Mirror it before you compare its vectors.

| | |
|---|---|
| shape | {shape}, {config["heads"]} heads, no dropout |
| tokenizer | uncased WordPiece, {config["vocab_size"]:,} pieces, trained on the same texts |
| trained on | {tokens / 1e6:,.0f} million tokens in blocks of {config["block_tokens"]}, {config["masking_rate"]:.0%} masked: the texts {tokens / CORPUS_TOKENS:.1f} times |
| validation loss | {loss:.3f} nats (400 blocks of unseen documents, 15% masked) |
| start | embeddings from co-occurrence counts of the same texts |
| optimizer | Muon ({config["matrix_learning_rate"]}) on matrices, AdamW ({config["embedding_learning_rate"]} embeddings, {config["learning_rate"]} rest) |
| after training | the mean of all token vectors moved from the last normalisation to the prediction head: the same language model, and vectors that differ |
{second_stage_rows(record)}| weights | float16, safetensors |
| mirroring | {", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in record["mirror"].items())}, unless you give others |

## Data

Plain English text in document order: Simple English Wikipedia and two samples of the English Wikipedia (CC BY-SA 3.0 and 4.0, by the Wikipedia contributors), and 63 English novels first published
by 1922 (out of copyright in the United States). {CORPUS_TOKENS / 1e6:.0f} million tokens in all. {SECOND_STAGE_DATA if "second_stage" in record else ""}Training used no labels and no other model.

## Command

    make mini{SECOND_STAGE_COMMAND if "second_stage" in record else ""}

with the settings of `benchmarks/tain_mini.toml`; every value is in `tain.json`. Versions: {", ".join(f"{name} {number}" for name, number in record["versions"].items())}.

## Limits

English only; texts of up to 512 tokens, trained on 128. It repeats what encyclopaedias and old novels say, their prejudices included.
"""


def second_stage_rows(record):
    """Rows of the card about contrast on neighbouring sentences; empty without this stage."""
    stage = record.get("second_stage")
    if stage is None:
        return ""
    seeds_before, seeds_after = stage.get("dev_seeds", [5, 5])
    gain = f"`best` on the development sets (STS-B dev, SICK trial), means of {seeds_before} and {seeds_after} seeds"
    shown = "" if "dev" not in stage else f"| {gain} | {stage['dev'][0]} before this stage, {stage['dev'][1]} after |\n"
    loss = (
        f"{stage['validation_loss']:.3f} nats (as above)"
        if "validation_loss" in stage
        else f"{stage['loss']:.3f} nats, {stage['loss_before']:.3f} before"
    )
    return (
        f"| second stage | contrast on {stage['pairs']:,} pairs of neighbouring sentences, in batches of {stage['batch_pairs']}, with cosines kept"
        f" near those of token vectors and a masked language model loss beside it: `benchmarks/contrast_mini.py` |\n"
        f"| validation loss after it | {loss} |\n{shown}"
    )


def validation_loss(folder):
    lines = [line for path in sorted(CORPUS.glob("valid_*")) for line in islice(read_texts(path), CENTRING_LINES // 4)]
    return round(MaskedPredictor.load(folder, dtype="float32").explored_loss(lines, block_tokens=128, passes=7, seed=0).loss, 4)


def ship_second_stage(source, target, *, dev, seeds):
    """Write a continued tain-mini: its weights in float16, the shipped record with this stage added, and the card."""
    if dev is not None and dev[1] < dev[0] + LEAST_DEV_GAIN:
        sys.exit(f"error: best has {dev[1]} on the development sets, not {LEAST_DEV_GAIN} above the shipped model's {dev[0]}: train longer")
    record = json.loads((ASSET / "tain.json").read_text())
    stage = json.loads((source / "stage.json").read_text())
    if "loss" not in stage:  # takes minutes, so it is kept beside the weights
        stage |= {"loss_before": validation_loss(ASSET), "loss": validation_loss(source)}
        (source / "stage.json").write_text(json.dumps(stage) + "\n", encoding="utf-8")
    record["second_stage"] = stage | ({"dev": dev, "dev_seeds": seeds} if dev else {})
    record["mirror"] = SECOND_MIRROR
    weights = {name: tensor.float().half().contiguous() for name, tensor in load_file(source / "model.safetensors").items()}
    expected = {name: tensor.shape for name, tensor in load_file(ASSET / "model.safetensors").items()}
    if {name: tensor.shape for name, tensor in weights.items()} != expected:
        sys.exit("error: the weights have other names or shapes than the shipped model's")
    if target != ASSET:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(ASSET, target, ignore=shutil.ignore_patterns("onnx"))  # its graph reads the former weights
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    (target / "tain.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (target / "README.md").write_text(card(record), encoding="utf-8")
    print(f"{target}: {record['second_stage']}")
    if target == ASSET:
        print("now run benchmarks/ship_mini_graph.py: the graph checks the weights by their digest")


def token_mean(folder):
    """The mean token vector that a model puts out on the validation texts."""
    embedder = Embedder.load(folder, pooling="mean", dtype="float32", device="cpu")
    lines = [line for path in sorted(CORPUS.glob("valid_*")) for line in islice(read_texts(path), CENTRING_LINES)]
    ids = tokenise(embedder.tokenizer, lines, max_tokens=128).ids
    total, tokens = torch.zeros(embedder.dim, dtype=torch.float64), 0
    with torch.inference_mode():
        for batch in batches_by_tokens([len(text) for text in ids], batch_tokens=8192):
            hidden = embedder.encoder.tokens(pack([ids[text] for text in batch]))
            total, tokens = total + hidden.double().sum(0), tokens + len(hidden)
    return (total / tokens).float()


def write_centred(source, target):
    """Move the mean of all token vectors out of the encoder and into the prediction head: the language model stays the same.

    All token vectors share a large part (cosines of .99 between any two texts), which says nothing and hides the rest from
    anything that compares vectors. The last normalisation's bias takes it away, the head's bias puts it back.
    """
    mean = token_mean(source)
    weights = {name: tensor.float() for name, tensor in load_file(source / "model.safetensors").items()}
    for name in [name for name in weights if name.endswith("norm.weight")]:
        weights[name.removesuffix("weight") + "bias"] = torch.zeros_like(weights[name])
    weights["model.final_norm.bias"] = -mean
    weights["head.dense.bias"] = weights["head.dense.weight"] @ mean
    config = json.loads((source / "config.json").read_text()) | {"norm_bias": True, "classifier_bias": True}
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(
        {name: tensor.half().contiguous() for name, tensor in weights.items()}, target / "model.safetensors", metadata={"format": "pt"}
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, target / name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--second-stage", action="store_true", help="the folder is of contrast_mini.py")
    parser.add_argument("--to", type=Path, default=ASSET, help="of a second stage: where to write it; default: into the package")
    parser.add_argument("--dev", type=float, nargs=2, help="of a second stage: mean of best on the development sets, before and after")
    parser.add_argument("--dev-seeds", type=int, nargs=2, default=[5, 5], help="seeds behind each of the two")
    chosen = parser.parse_args()
    source = chosen.source
    if chosen.second_stage:
        if chosen.to == ASSET and chosen.dev is None:
            sys.exit("error: give --dev BEFORE AFTER, or --to FOLDER for a folder to measure")
        ship_second_stage(source, chosen.to, dev=chosen.dev, seeds=chosen.dev_seeds)
        return
    size = (source / "model.safetensors").stat().st_size
    if size > LARGEST_BYTES:
        sys.exit(f"error: the weights have {size / 2**20:.1f} MB, more than the package may carry (40)")
    record = json.loads((source / "tain.json").read_text())
    shipped = json.loads((ASSET / "tain.json").read_text())["validation"][-1][1] if (ASSET / "tain.json").exists() else None
    if shipped is not None and record["validation"][-1][1] > shipped - LEAST_GAIN:
        sys.exit(
            f"error: validation loss {record['validation'][-1][1]:.3f} is not {LEAST_GAIN} below the shipped model's {shipped:.3f}: train longer"
        )
    record["config"]["validation"] = []  # file names of one machine say nothing
    shutil.rmtree(ASSET, ignore_errors=True)
    ASSET.mkdir(parents=True)
    write_centred(source, ASSET)
    record["mirror"] = MIRROR
    (ASSET / "tain.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (ASSET / "README.md").write_text(card(record), encoding="utf-8")
    print(f"{ASSET}: {size / 2**20:.1f} MB, validation loss {record['validation'][-1][1]}")


if __name__ == "__main__":
    main()

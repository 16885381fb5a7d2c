"""Put a finished pretraining run into the package as tain-mini, with its model card.

python benchmarks/ship_mini.py runs/mini-ship
"""

import json
import shutil
import sys
from pathlib import Path

ASSET = Path(__file__).parents[1] / "src" / "tain" / "assets" / "tain_mini"
LARGEST_BYTES = 40 * 2**20
KEPT = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def card(record):
    config = record["config"]
    tokens, loss = record["validation"][-1]
    shape = f"{config['architecture']} layout, {config['layers']} layers x {config['width']}, feed-forward {config['feed_forward']}"
    return f"""---
license: cc-by-sa-3.0
language: en
pipeline_tag: fill-mask
tags: [tain, masked-language-model]
---

# tain-mini

A small English masked language model, trained from nothing on the texts below, so that tain has something to mirror where no network is. It is a start, not a rival of
models trained for weeks.

| | |
|---|---|
| shape | {shape}, {config["heads"]} heads, no dropout |
| tokenizer | uncased WordPiece, {config["vocabulary"]:,} pieces, trained on the same texts |
| trained on | {tokens / 1e6:.1f} million tokens in blocks of {config["block_tokens"]}, {config["masking_rate"]:.0%} masked |
| validation loss | {loss:.3f} nats (400 blocks of unseen documents, 15% masked) |
| start | embeddings from co-occurrence counts of the same texts |
| optimizer | Muon ({config["matrix_rate"]}) on matrices, AdamW ({config["embedding_rate"]} embeddings, {config["learning_rate"]} rest) |
| weights | float16, safetensors |

## Data

Plain English text in document order: Simple English Wikipedia and two samples of the English Wikipedia (CC BY-SA 3.0 and 4.0, by the Wikipedia contributors), and 63 English novels first published
by 1922 (out of copyright in the United States). 65 million tokens in all. Training used no labels and no other model.

## Command

    make mini; make mini-ship

with the settings of `benchmarks/tain_mini.toml`; every value is in `tain.json`. Versions: {", ".join(f"{name} {number}" for name, number in record["versions"].items())}.

## Limits

English only; texts of up to 512 tokens, trained on 128. It repeats what encyclopaedias and old novels say, their prejudices included.
"""


def main():
    source = Path(sys.argv[1])
    size = (source / "model.safetensors").stat().st_size
    if size > LARGEST_BYTES:
        sys.exit(f"error: the weights have {size / 2**20:.1f} MB, more than the package may carry (40)")
    record = json.loads((source / "tain.json").read_text())
    record["config"]["validation"] = []  # file names of one machine say nothing
    shutil.rmtree(ASSET, ignore_errors=True)
    ASSET.mkdir(parents=True)
    for name in KEPT:
        shutil.copy(source / name, ASSET / name)
    (ASSET / "tain.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (ASSET / "README.md").write_text(card(record), encoding="utf-8")
    print(f"{ASSET}: {size / 2**20:.1f} MB, validation loss {record['validation'][-1][1]}")


if __name__ == "__main__":
    main()

"""The steps of ``gpu_day.sh``: figures that need a GPU. Each step writes one JSON file; ``collect`` joins them.

- ``dropout``: whether gradient caching replays dropout bit for bit on this device.
- ``mirror``: identity fine-tuning of a BERT-base shape, 10,000 texts: training loop, and process start to saved folder.
- ``reference``: the training loop of the released recipe (padded to 50 tokens, automatic mixed precision) on the same texts.
- ``encode``: texts a second in bfloat16 against sentence-transformers in bfloat16, short, long and mixed texts.
- ``pretrain``: tokens a second of masked language modelling, BERT-base and tain-mini's shape.

Weights are random and texts are drawn from fixed words, so that no file is needed: speed does not depend on them. Lengths follow English
sentences (median 11 words). ``--tiny`` rehearses everything on a CPU within a minute or two; its figures mean nothing.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import mirror_gpu
import tain
from measuring import command_line, machine
from tain.models.embedder import Embedder

SYLLABLES = ["ba", "do", "fi", "ka", "lu", "mo", "ne", "po", "ri", "sa", "te", "vu"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = 30_522
BASE: dict[str, Any] = {}
TINY: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=[*STEPS, "collect"])
    parser.add_argument("--output", type=Path, required=True, help="JSON file of the figures")
    parser.add_argument("--tiny", action="store_true", help="rehearse on a CPU with tiny shapes")
    given = parser.parse_args()
    if given.step == "collect":
        collect(given.output, is_tiny=given.tiny)
        return
    if not given.tiny and not torch.cuda.is_available():
        sys.exit("error: there is no GPU on this machine: rehearse with --tiny")
    mirror_gpu.DEVICE = torch.device("cpu" if given.tiny else "cuda")
    began_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        figures = STEPS[given.step](Path(folder), given.tiny)
    figures |= {"step": given.step, "is_tiny": given.tiny, "took_s": round(time.perf_counter() - began_s, 1)}
    given.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures))


def collect(output: Path, *, is_tiny: bool) -> None:
    """Join the steps' files; says which are missing."""
    found, missing = {}, []
    for step in STEPS:
        path = output.with_name(f"{output.stem}-{step}.json")
        figures = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if figures is None or figures["is_tiny"] != is_tiny:
            missing.append(step)
        else:
            found[step] = figures
    content = {"command": command_line(), "machine": machine(), "is_tiny": is_tiny, "missing": missing, "steps": found}
    output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if missing:
        sys.exit(f"error: no figures of {', '.join(missing)}")


# ---- what the steps share


def words() -> list[str]:
    return [first + second + third for first in SYLLABLES for second in SYLLABLES for third in SYLLABLES]


def drawn_texts(count: int, *, median_words: int = 11, seed: int = 1) -> list[str]:
    chance, known = random.Random(seed), words()
    return [
        f"{' '.join(chance.choices(known, k=max(2, round(median_words * chance.lognormvariate(0, 0.4)))))} {number}"
        for number in range(count)
    ]


def model_folder(folder: Path, *, is_tiny: bool) -> Path:
    """A BERT-base shape with random weights; its tokenizer knows the drawn words."""
    vocabulary = folder / "vocab.txt"
    known = [*SPECIAL, *"0123456789", *(f"##{digit}" for digit in "0123456789"), *words()]
    size = len(known) if is_tiny else VOCABULARY
    vocabulary.write_text("\n".join([*known, *(f"[unused{number}]" for number in range(size - len(known)))]) + "\n")
    made = folder / "bert-base"
    mirror_gpu.bert_base(made, vocabulary, **(TINY if is_tiny else BASE))
    return made


def summary(times: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(times), 3), "least": round(min(times), 3), "most": round(max(times), 3)}


# ---- the steps


def dropout(folder: Path, is_tiny: bool) -> dict[str, Any]:
    """Gradients of one batch with dropout: in one part, in several parts twice, and each pass's vectors."""
    from tain.encoders.dropout import set_dropout
    from tain.objectives.contrastive import info_nce
    from tain.training.gradcache import cached_gradients

    embedder = Embedder.load(model_folder(folder, is_tiny=is_tiny), device=str(mirror_gpu.DEVICE), dtype="float32")
    encoder = embedder.encoder.train()
    set_dropout(encoder, hidden=0.1, attention=0.1)
    ids = [embedder.tokenizer(text)["input_ids"] for text in drawn_texts(16 if is_tiny else 64)]
    half = len(ids) // 2
    seen: list[torch.Tensor] = []

    def embed(part: list[list[int]]) -> torch.Tensor:
        vectors = embedder.encoder(mirror_gpu_pack(part))
        seen.append(vectors.detach().clone())
        return vectors

    def gradient() -> torch.Tensor:
        encoder.zero_grad()
        cached_gradients(
            [ids[:half], ids[half:]],
            rows=[list(range(half)), list(range(half, len(ids)))],
            embed=embed,
            loss=lambda vectors: info_nce(vectors[0::2], vectors[1::2], temperature=0.04),
            reseed=lambda part: torch.manual_seed(100 + part),
            total=len(ids),
        )
        return torch.cat([parameter.grad.flatten() for parameter in encoder.parameters() if parameter.grad is not None])

    def mirror_gpu_pack(part: list[list[int]]) -> Any:
        from tain.batches.packing import pack

        return pack(part).to(mirror_gpu.DEVICE)

    first, second = gradient(), gradient()
    passes = [bool(torch.equal(seen[number], seen[number + 2])) for number in (0, 1)]
    apart = [float((seen[number] - seen[number + 2]).abs().max()) for number in (0, 1)]
    return {
        "both_passes_have_equal_bits": all(passes),
        "largest_difference_of_passes": max(apart),
        "two_runs_have_equal_gradient_bits": bool(torch.equal(first, second)),
        "largest_difference_of_gradients": float((first - second).abs().max()),
    }


def mirror(folder: Path, is_tiny: bool) -> dict[str, Any]:
    made, texts = model_folder(folder, is_tiny=is_tiny), drawn_texts(400 if is_tiny else 10_000)
    texts_file = folder / "texts.txt"
    texts_file.write_text("\n".join(texts) + "\n", encoding="utf-8")
    loops = [mirror_gpu.our_loop(made, texts, folder / "out").seconds for _ in range(2 if is_tiny else 4)][1:]
    wholes, ways = [], []
    for _ in range(1 if is_tiny else 3):
        whole_s, reached = mirror_gpu.start_to_saved(made, texts_file, folder / "out")
        wholes.append(whole_s)
        ways.append(reached)
    return {
        "training_loop_s": summary(loops),
        "goal_of_loop_s": 1.0,
        "start_to_saved_s": summary(wholes),
        "goal_of_start_to_saved_s": 10.0,
        "reached_s": ways,
    }


def reference(folder: Path, is_tiny: bool) -> dict[str, Any]:
    made, texts = model_folder(folder, is_tiny=is_tiny), drawn_texts(400 if is_tiny else 10_000)
    return {"training_loop_s": summary([mirror_gpu.reference_loop_s(made, texts)[0] for _ in range(2 if is_tiny else 3)][1:])}


def encode(folder: Path, is_tiny: bool) -> dict[str, Any]:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    made, device = model_folder(folder, is_tiny=is_tiny), str(mirror_gpu.DEVICE)
    count = 100 if is_tiny else 20_000
    short, long = drawn_texts(count), drawn_texts(count // 10, median_words=120, seed=2)
    mixed = [*short[: count // 2], *long[: count // 20]]
    random.Random(0).shuffle(mixed)
    ours = Embedder.load(made, device=device, dtype="bfloat16")
    word = modules.Transformer(str(made), max_seq_length=512, model_kwargs={"dtype": torch.bfloat16})
    theirs = SentenceTransformer(modules=[word, modules.Pooling(word.get_embedding_dimension(), "mean")], device=device)
    figures: dict[str, Any] = {"layout": ours.layout}
    for name, texts in {"short": short, "long": long, "mixed": mixed}.items():
        rates: dict[str, list[float]] = {"ours": [], "sentence-transformers": []}
        vectors: dict[str, np.ndarray] = {}
        for round_number in range(2 if is_tiny else 4):
            for rival, run in (
                ("ours", lambda t=texts: ours.encode(t)),
                ("sentence-transformers", lambda t=texts: theirs.encode(t, batch_size=8 if is_tiny else 256)),
            ):
                began_s = time.perf_counter()
                vectors[rival] = np.asarray(run(), np.float32)
                if round_number:
                    rates[rival].append(len(texts) / (time.perf_counter() - began_s))
        left, right = (value / np.linalg.norm(value, axis=1, keepdims=True) for value in vectors.values())
        figures[name] = {rival: summary(values) for rival, values in rates.items()}
        figures[name] |= {"texts": len(texts), "least_cosine": round(float((left * right).sum(1).min()), 5)}
        figures[name]["times"] = round(statistics.median(rates["ours"]) / statistics.median(rates["sentence-transformers"]), 2)
    return figures


def pretrain(folder: Path, is_tiny: bool) -> dict[str, Any]:
    tokenizer = model_folder(folder, is_tiny=is_tiny)
    texts = folder / "corpus.txt"
    texts.write_text("\n".join(drawn_texts(2_000 if is_tiny else 200_000)) + "\n", encoding="utf-8")
    base = {"architecture": "bert", "layers": 12, "hidden_size": 768, "heads": 12, "intermediate_size": 3072}
    mini = {"architecture": "modernbert", "layers": 8, "hidden_size": 384, "heads": 6, "intermediate_size": 576}
    shapes = (
        {"tiny": {"layers": 2, "hidden_size": 32, "heads": 2, "intermediate_size": 64}}
        if is_tiny
        else {"BERT-base": base, "tain-mini": mini}
    )
    figures: dict[str, Any] = {}
    for name, shape in shapes.items():
        tokens = []
        for budget in (2e4, 6e4) if is_tiny else (2e6, 1e7):
            began_s = time.perf_counter()
            made = tain.pretrain(
                "scratch",
                [str(texts)],
                folder / f"{name}-{budget:.0f}",
                tokens=budget,
                batch_blocks=16 if is_tiny else 256,
                tokenizer=str(tokenizer),
                cooccurrence_init=False,
                shards=folder / "shards",
                device=str(mirror_gpu.DEVICE),
                dtype="float32" if is_tiny else "bfloat16",
                **shape,
            )
            tokens.append((made.tokens, time.perf_counter() - began_s))
        (small, small_s), (large, large_s) = tokens  # the difference has no start, tokenising or saving in it
        figures[name] = {"tokens_per_s": round((large - small) / max(large_s - small_s, 1e-9)), "whole_runs": tokens}
    return figures


STEPS = {"dropout": dropout, "mirror": mirror, "reference": reference, "encode": encode, "pretrain": pretrain}

if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main()

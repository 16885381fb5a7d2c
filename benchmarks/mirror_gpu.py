"""Identity fine-tuning of a BERT-base shape on a GPU: the training loop, and process start to saved folder.

10,000 STS sentences, two views, one epoch of 50 steps, against the released recipe (two passes padded to 50 tokens, automatic
mixed precision, AdamW on every parameter; Liu et al. 2021). The weights are random: speed does not depend on them. The paper
names 20 to 30 seconds on two GPUs. Without a GPU this script says so and ends.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer

import tain
from measuring import Claim, arguments, finish, sts_sentences
from tain.batches.views import twin_views
from tain.objectives.contrastive import info_nce

BATCH, PADDED, LEARNING_RATE, SEED = 200, 50, 2e-5, 13
DEVICE = torch.device("cuda")


def bert_base(folder, vocabulary, **shape):
    """Save a BERT-base shape with random weights."""
    torch.manual_seed(SEED)
    BertModel(BertConfig(vocab_size=sum(1 for _ in vocabulary.open(encoding="utf-8")), **shape)).save_pretrained(folder)
    BertTokenizer(vocab=str(vocabulary), model_max_length=512).save_pretrained(folder)


def reference_loop_s(folder, texts):
    """Seconds of the released recipe's training loop, and its losses."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModel.from_pretrained(folder, trust_remote_code=False, attn_implementation="sdpa").to(DEVICE).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    order = np.random.default_rng(SEED).permutation(len(texts))
    losses = []
    synchronise()
    began_s = time.perf_counter()
    for step in range(len(texts) // BATCH):
        batch = [texts[index] for index in order[step * BATCH : (step + 1) * BATCH]]
        views = twin_views(batch, chars=5, floor=30, mask_token="[MASK]", rng=np.random.default_rng([SEED, 3, step]))
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
            vectors = []
            for view in views:
                padded = tokenizer(view, padding="max_length", truncation=True, max_length=PADDED, return_tensors="pt").to(DEVICE)
                hidden = model(**padded).last_hidden_state
                is_token = padded["attention_mask"][..., None]
                vectors.append((hidden * is_token).sum(1) / is_token.sum(1))
            loss = info_nce(*(vector.float() for vector in vectors), temperature=0.04)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    synchronise()
    return time.perf_counter() - began_s, losses


def synchronise():
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def our_loop(folder, texts, output):
    made = tain.mirror(
        folder, texts, output, level="sentence", learning_rate=LEARNING_RATE, held_out=0, keep_duplicates=True, overwrite=True
    )
    return made.runs[made.best]


def start_to_saved(folder, texts_file, output):
    """Seconds of the whole command, with everything a user gets (report before and after, model card), and when it reached what on the way."""
    command = [
        sys.executable,
        "-m",
        "tain",
        "mirror",
        str(folder),
        str(texts_file),
        "-o",
        str(output),
        "--learning-rate",
        str(LEARNING_RATE),
    ]
    reached = {}
    began_s = time.perf_counter()
    with subprocess.Popen([*command, "--overwrite", "--json"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as running:
        assert running.stderr is not None
        for line in running.stderr:
            now_s = round(time.perf_counter() - began_s, 2)
            event = json.loads(line)["event"] if line.startswith("{") else None
            if event == "note":
                reached.setdefault("model loaded", now_s)
            elif event == "progress":
                reached.setdefault("first step", now_s)
                reached["last step"] = now_s
    taken_s = time.perf_counter() - began_s
    if running.returncode:
        raise SystemExit(f"tain mirror ended with {running.returncode}")
    return taken_s, reached


def main():
    chosen = arguments(__doc__)
    if not torch.cuda.is_available():
        print(json.dumps({"skipped": "no GPU on this machine"}))
        return
    texts = sts_sentences(chosen.data)
    repeats = 1 if chosen.quick else 3  # a round takes half a minute
    with tempfile.TemporaryDirectory() as scratch:
        folder, output, texts_file = (Path(scratch) / name for name in ("bert-base", "encoder", "texts.txt"))
        texts_file.write_text("\n".join(texts), encoding="utf-8")
        bert_base(folder, chosen.data / "bert_vocab" / "vocab.txt")
        runs, references, wholes, ways = [], [], [], []
        for round_number in range(repeats + 1):
            run, reference = our_loop(folder, texts, output), reference_loop_s(folder, texts)
            print(f"round {round_number}: ours {run.seconds:.2f} s, the released recipe {reference[0]:.2f} s", file=sys.stderr, flush=True)
            if round_number:  # the first round warms both up
                runs.append(run)
                references.append(reference)
                taken_s, reached = start_to_saved(folder, texts_file, output)
                wholes.append(taken_s)
                ways.append(reached)
                print(f"round {round_number}: process start to saved folder {taken_s:.1f} s, {reached}", file=sys.stderr, flush=True)
    ours_s, reference_s = [run.seconds for run in runs], [seconds for seconds, _ in references]
    apart = max(abs(run.losses[-1] - losses[-1]) for run, (_, losses) in zip(runs, references, strict=True))
    claims = [
        claim_of("training loop, BERT-base shape, 10k x 2 views", ours_s, goal=2.0),
        claim_of("process start to saved folder", wholes, goal=15.0),
        claim_of("the released recipe's training loop", reference_s, goal=None),
    ]
    details = {"ours_s": ours_s, "reference_s": reference_s, "start_to_saved_s": wholes, "reached_s": ways, "last_loss_apart": apart}
    details |= {"losses": runs[0].losses, "reference_losses": references[0][1]}
    finish("mirror_gpu", claims, details, quick=chosen.quick)


def claim_of(name, times, *, goal):
    return Claim(name, round(statistics.median(times), 3), "seconds", goal, (round(min(times), 3), round(max(times), 3)), None)


if __name__ == "__main__":
    main()

"""Norms of an attention block against the direct way with every token pair's vector written out; ratios against a plain forward pass."""

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import torch
import transformers

from measuring import Claim, arguments, finish, in_turns, ratio_of
from tain.batches.packing import pack
from tain.encoders.transformer import TransformerEncoder
from tain.inspection.capturing import Watched
from tain.inspection.norms import mixing_ratios, text_norms

VOCABULARY = 1000
SEQUENCES, TOKENS = 1000, 128  # of the third claim


def bert_base(layers):
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=VOCABULARY, num_hidden_layers=layers)
    return Watched(TransformerEncoder(transformers.BertModel(config)))


def block_states(tokens):
    """One layer's states for one text."""
    shown = []
    ids = torch.randint(VOCABULARY, (tokens,), generator=torch.Generator().manual_seed(tokens)).tolist()
    bert_base(1).run(pack([ids]), lambda _, states: shown.append(states))
    return shown[0]


@torch.no_grad()
def direct(states):
    """Everything as Kobayashi et al. 2021 write it, with tensors of tokens x tokens x dim, one head at a time to spare the rival memory."""
    ((_, weights, values),) = states.texts()
    heads, tokens, _ = weights.shape
    dense, norm = states.block.output_layer, states.block.norm_layer
    matrices = dense.weight.unflatten(1, (heads, -1))
    head_norms, parts = [], torch.zeros(())
    for head in range(heads):
        transformed = values[head] @ matrices[:, head].T  # (tokens, dim)
        weighted = weights[head][..., None] * transformed  # (tokens, tokens, dim)
        head_norms.append(weighted.norm(dim=-1))
        parts = parts + weighted
    attention = parts.norm(dim=-1)
    parts = parts + torch.eye(tokens)[..., None] * states.inputs
    with_residual = parts.norm(dim=-1)
    whole = parts.sum(1) + dense.bias
    deviation = (whole.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()[:, None]
    normed = (parts - parts.mean(-1, keepdim=True)) / deviation * norm.weight
    own = normed.diagonal(dim1=0, dim2=1).T
    context = normed.sum(1) - own
    ratio = context.norm(dim=-1) / (context.norm(dim=-1) + own.norm(dim=-1))
    return torch.stack(head_norms), attention, with_residual, normed.norm(dim=-1), ratio


@torch.no_grad()
def ours(states):
    (found,) = text_norms(states)
    return found.head_norms, found.attention, found.with_residual, found.normed, mixing_ratios(states)[4]


WAYS = {"direct": direct, "ours": ours}


def peak_bytes(way, tokens):
    """How much a process grows by one call, measured in a process of its own."""
    command = [sys.executable, __file__, "--grow", way, str(tokens)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_growth(way, tokens):
    states = block_states(tokens)
    ours(block_states(16))  # libraries take what they need
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory freed before must not hide what is taken now
    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest mark
    before = memory_kib("VmRSS")
    WAYS[way](states)
    print(json.dumps(1024 * (memory_kib("VmHWM") - before)))


def memory_kib(name):
    """This process's own memory as Linux counts it: now (VmRSS), or at most so far (VmHWM)."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1])


def block_claims(tokens, *, repeats, goals):
    states = block_states(tokens)
    apart = max(float((one - other).abs().max() / one.abs().max()) for one, other in zip(direct(states), ours(states), strict=True))
    assert apart < 1e-5, f"norms of {tokens} tokens differ by {apart}"
    times = in_turns({name: lambda way=way: way(states) for name, way in WAYS.items()}, repeats=repeats)
    ratio, spread = ratio_of(times["direct"], times["ours"])
    grown = {name: peak_bytes(name, tokens) for name in WAYS}
    share = round(grown["ours"] / grown["direct"], 3)
    claims = [
        Claim(f"norms of a block, {tokens} tokens", ratio, "times as fast as the direct way", goals[0], spread, apart),
        Claim(f"memory for them, {tokens} tokens", share, "of the direct way's", goals[1], (share, share), apart),
    ]
    return claims, {"times_s": times, "peak_bytes": grown}


def ratio_claim(sequences, *, pieces):
    """Mixing ratios of all layers beside the same packed forward pass that looks at nothing."""
    watched = bert_base(12)
    ids = torch.randint(VOCABULARY, (sequences, TOKENS), generator=torch.Generator().manual_seed(1)).tolist()
    size = sequences // pieces
    rounds = iter(range(10**6))

    def batches():
        piece = next(rounds) // 2 % pieces  # both ways take the same piece in turn
        for start in range(piece * size, (piece + 1) * size, 32):
            yield pack(ids[start : min(start + 32, (piece + 1) * size)])

    @torch.no_grad()
    def plain():
        for packed in batches():
            watched.encoder.tokens(packed)

    def inspected():
        for packed in batches():
            watched.run(packed, lambda _, states: mixing_ratios(states))

    times = in_turns({"inspected": inspected, "plain": plain}, repeats=pieces)
    ratio, spread = ratio_of(times["inspected"], times["plain"])
    name = f"mixing ratios of {sequences:,} sequences of {TOKENS} tokens"
    return Claim(name, ratio, "times a plain forward pass, less is better", 1.5, spread, None), times


def main():
    if "--grow" in sys.argv:
        print_growth(sys.argv[-2], int(sys.argv[-1]))
        return
    chosen = arguments(__doc__)
    claims, details = [], {}
    for tokens, goals in ((128, (None, None)), (256 if chosen.quick else 512, (5.0, 0.1))):  # the direct way takes gigabytes at 512
        found, details[str(tokens)] = block_claims(tokens, repeats=1 if chosen.quick else 5, goals=goals)
        claims += found
    claim, times = ratio_claim(32 if chosen.quick else SEQUENCES, pieces=2 if chosen.quick else 10)
    finish("inspection_speed", [*claims, claim], {**details, "ratios_s": times}, quick=chosen.quick)


if __name__ == "__main__":
    main()

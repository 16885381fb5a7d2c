"""What a poly-encoder costs beside a bi- and a cross-encoder, and what an index of a million candidates costs.

Scans: one query against cached candidates 384 wide, exact; the matrix product alone is timed beside them, block by block as the scan
goes, for it is what no exact scoring can spare. Queries: from the context's text to all scores, MiniLM in all towers, untrained heads (the time is the same).
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from measuring import Claim, arguments, finish, in_turns, minilm_folder, ratio_of, sts_sentences
from tain.encoders.heads import poly_scores
from tain.models import scanning
from tain.models.embedder import Embedder
from tain.models.rankers import CrossRanker, DualRanker
from tain.models.scanning import scan_all, scan_best
from tain.ranking.evaluation import latencies
from tain.ranking.index import CandidateIndex

DIM, CODES = 384, (16, 64, 360)
LIMITS = {"context_tokens": 360, "candidate_tokens": 72}

# opened, searched and read while another process appends; prints seconds, megabytes and rows
READER = """
import json, resource, sys, time
import numpy as np, torch
from tain.ranking.index import CandidateIndex
from tain.models.scanning import scan_best
context = torch.randn(64, {dim})
scan_best(np.ones((64, {dim}), dtype=np.float32), [context], k=1)
before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
began_s = time.perf_counter()
index = CandidateIndex.open(sys.argv[1])
index.text(len(index) - 1)
open_s = time.perf_counter() - began_s
best = scan_best(index.vectors, [context], k=10, squares=index.squares)[0]
after_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps(dict(open_s=open_s, grown_mb=after_mb - before_mb, rows=len(index), best=best.rows.tolist())))
"""


def main():
    chosen = arguments(__doc__)
    claims, details = scans(chosen)
    more, found = queries(chosen)
    claims, details = claims + more, details | found
    more, found = indexing(chosen)
    finish("ranking_speed", claims + more, details | found, quick=chosen.quick)


def context_vectors(count, *, generator):
    """Vectors such as codes make of one context: a common part, some directions in which they differ, a little of everything.

    They differ in three times as many directions as the bound that prunes knows, so that it is not made for them.
    """
    shared = torch.randn(1, DIM, generator=generator)
    ways = 3 * scanning._DIRECTIONS
    directions = torch.randn(count, ways, generator=generator) @ torch.randn(ways, DIM, generator=generator) / ways**0.5
    return (shared + 0.5 * directions + 0.05 * torch.randn(count, DIM, generator=generator)) / DIM**0.5


def scans(chosen):
    generator = torch.Generator().manual_seed(0)
    number = 20_000 if chosen.quick else 100_000
    candidates = torch.randn(number, DIM, generator=generator).numpy()
    squares = (candidates**2).sum(1)
    contexts = {f"poly-{count}": context_vectors(count, generator=generator) for count in CODES}
    contexts["bi"] = contexts["poly-64"].mean(0, keepdim=True)
    apart = 0.0
    for context in contexts.values():
        found = scan_all(candidates, context)
        expected = poly_scores(context[None], torch.from_numpy(candidates))[0].numpy()
        apart = max(apart, float(np.abs(found - expected).max()))
        best = scan_best(candidates, [context], k=10, squares=squares)[0]
        assert set(best.rows) == set(np.argsort(-expected)[:10]), "pruning lost a candidate"
    assert apart < 1e-3, f"scores differ by {apart}"
    rivals = {name: lambda c=context: scan_all(candidates, c) for name, context in contexts.items()}
    rivals |= {f"product of {name}": lambda c=context: products(candidates, c) for name, context in contexts.items()}
    rivals |= {
        f"best 10 of {name}": lambda c=context: scan_best(candidates, [c], k=10, squares=squares) for name, context in contexts.items()
    }
    times = in_turns(rivals, repeats=3 if chosen.quick else 11)
    beyond = [poly - product for poly, product in zip(times["poly-64"], times["product of poly-64"], strict=True)]
    ratio, spread = ratio_of(beyond, times["bi"])
    pruned, pruned_spread = ratio_of(times["best 10 of poly-64"], times["best 10 of bi"])
    unit = "times the bi-encoder's scan"
    claims = [
        Claim(
            f"exact poly-64 scores of {number:,} candidates, beyond the matrix product itself (at most)", ratio, unit, 1.5, spread, apart
        ),
        Claim(f"the ten best of {number:,}, poly-64 pruned by the max bound (at most)", pruned, unit, None, pruned_spread, 0.0),
    ]
    return claims, {"scan_times_s": times, "scan_candidates": number}


def products(candidates, context):
    """The products of ``scan_all`` alone, in its blocks."""
    for _, block in scanning._blocks(candidates, scanning._rows_a_block(len(context))):
        torch.mm(context, block.T)


def queries(chosen):
    embedder = Embedder.load(minilm_folder(), device="cpu", dtype="float32")
    generator = torch.Generator().manual_seed(0)
    settings = {"scale": 0.3, "is_scale_learned": True, "is_shared": True, "generator": generator, **LIMITS}
    rankers = {
        "bi": DualRanker.start(embedder, kind="pooled", codes=1, **settings),
        **{f"poly-{count}": DualRanker.start(embedder, kind="learned", codes=count, **settings) for count in CODES},
        "cross": CrossRanker.start(embedder, **LIMITS, generator=generator),
    }
    sentences = sts_sentences(chosen.data)
    contexts = [" ".join(sentences[start : start + 6]) for start in range(0, 120, 6)]
    sizes = (1000, 10_000) if chosen.quick else (1000, 100_000)
    rounds = 3 if chosen.quick else 9
    times = {name: [] for name in rankers}
    for number in range(rounds):
        for name, ranker in rankers.items():
            found = latencies(ranker, contexts[number:], sentences[:1000], sizes=sizes, queries=1 if name == "cross" else 3)
            times[name].append([time.ms / 1000 for time in found])
    at_1k = {name: [row[0] for row in rows] for name, rows in times.items()}
    ratio, spread = ratio_of(at_1k["poly-64"], at_1k["bi"])
    faster, faster_spread = ratio_of(at_1k["cross"], at_1k["poly-64"])
    claims = [
        Claim("a query with 1,000 cached candidates, poly-64 against bi (at most)", ratio, "times the bi-encoder", 1.3, spread, None),
        Claim("a query with 1,000 candidates, cross against poly-64", faster, "times the poly-encoder", 200.0, faster_spread, None),
    ]
    return claims, {"query_times_s": times, "query_candidates": sizes, "cross_is_extrapolated_from": 32}


def indexing(chosen):
    number, batch = (50_000 if chosen.quick else 1_000_000), 50_000
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        index = CandidateIndex.create(path, dim=DIM, fingerprint="speed", model="speed")
        began_s = time.perf_counter()
        for start in range(0, number, batch):
            index.append([f"candidate {position} of a million" for position in range(start, start + batch)], rng.normal(size=(batch, DIM)))
        build_s = time.perf_counter() - began_s
        size_mb = number * DIM * 4 / 2**20
        disk_mb = sum(file.stat().st_size for file in path.iterdir()) / 2**20
        reader = subprocess.Popen([sys.executable, "-c", READER.format(dim=DIM), str(path)], stdout=subprocess.PIPE, text=True)
        appended = 0
        while reader.poll() is None:  # appended to while it is read
            index.append(["a late one"], rng.normal(size=(1, DIM)))
            appended += 1
            time.sleep(0.02)
        seen = json.loads(reader.stdout.read())
        assert seen["rows"] >= number
        assert len(CandidateIndex.open(path)) == number + appended
    claims = [
        Claim(
            f"an index of {number:,} candidates opens (at most)",
            round(seen["open_s"], 4),
            "seconds",
            1.0,
            (seen["open_s"], seen["open_s"]),
            None,
        ),
        Claim(
            "its size on the disk (at most)",
            round(disk_mb / size_mb, 3),
            "times its vectors",
            1.1,
            (disk_mb / size_mb, disk_mb / size_mb),
            None,
        ),
        Claim(
            "memory that opening and searching it took (at most)",
            round(seen["grown_mb"] / size_mb, 3),
            "times its vectors",
            1.1,
            (seen["grown_mb"] / size_mb,) * 2,
            None,
        ),
    ]
    return claims, {"index": seen | {"build_s": build_s, "appended_while_read": appended, "disk_mb": disk_mb, "vectors_mb": size_mb}}


if __name__ == "__main__":
    main()

"""What joining costs: a joined tain-mini against the plain one, encoding STS-B sentences with tain and with sentence-transformers.

tain skips the zero blocks of a joined encoder; other readers multiply by the zeros. Joining is by ``--positives identity`` with the least training: the cost
does not depend on what was learned. One number type, float32, and one process; ``exported`` is the folder of ``tain export``.
"""

import tempfile
from pathlib import Path

import numpy as np

from measuring import Claim, arguments, finish, in_turns, ratio_of, sts_sentences
from tain.exported.encoder import ExportedEncoder
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.recipes.export.recipe import export
from tain.recipes.mirror.recipe import mirror


def main():
    from sentence_transformers import SentenceTransformer

    chosen = arguments(__doc__)
    texts = sts_sentences(chosen.data)
    some = texts[: 200 if chosen.quick else 1000]
    silent = Progress.mute()
    with tempfile.TemporaryDirectory() as scratch:
        joined, plain = Path(scratch) / "joined", Path(scratch) / "plain"
        mirror("tain-mini", texts[:2000], joined, recipe="best", positives="identity", progress=silent)
        mirror("tain-mini", texts[:2000], plain, progress=silent)
        encoders = {name: Embedder.load(folder, dtype="float32") for name, folder in (("plain", plain), ("joined", joined))}
        for name, folder in (("plain", plain), ("joined", joined)):
            export(folder, Path(scratch) / f"{name}-onnx", int8=False, progress=silent)
            encoders[f"{name}, exported"] = ExportedEncoder.load(Path(scratch) / f"{name}-onnx")
        theirs = {
            f"{name}, sentence-transformers": SentenceTransformer(str(folder), device="cpu")
            for name, folder in (("plain", plain), ("joined", joined))
        }
        runs = {name: lambda encoder=encoder: encoder.encode(some) for name, encoder in encoders.items()}
        runs |= {
            name: lambda encoder=encoder: encoder.encode(some, batch_size=64, show_progress_bar=False) for name, encoder in theirs.items()
        }
        times = in_turns(runs, repeats=2 if chosen.quick else 5)
        expected = theirs["joined, sentence-transformers"].encode(some, batch_size=64, show_progress_bar=False)
        found = encoders["joined"].encode(some)
        cosines = (expected * found).sum(1) / (np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1))
        sizes = {
            name: sum(file.stat().st_size for file in (Path(scratch) / name).rglob("*") if file.is_file())
            for name in ("plain", "joined", "plain-onnx", "joined-onnx")
        }
    claims = []
    for kind, goal in (("", 1.2), (", exported", 1.2), (", sentence-transformers", None)):
        ratio, spread = ratio_of(times[f"joined{kind}"], times[f"plain{kind}"])
        claims.append(Claim(f"time to encode with a joined encoder over a plain one{kind}", ratio, "times", goal, spread, None))
    details = {"texts": len(some), "seconds": {name: [round(each, 3) for each in found] for name, found in times.items()}, "bytes": sizes}
    finish("joined_speed", claims, details | {"lowest cosine with sentence-transformers": float(cosines.min())}, quick=chosen.quick)


if __name__ == "__main__":
    main()

"""How much of its teacher a student of vectors keeps: STS Spearman of teacher, pQRNN and a static student of the same bytes.

Teacher: all-MiniLM-L6-v2; raw text of the corpus, no labels.
"""

import lzma
import random
import tempfile
from pathlib import Path

import numpy as np

from measuring import Claim, arguments, finish, minilm_folder
from tain.evaluation.report import evaluate
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.recipes.distil import distil
from tain.text.cleaning import drop_repeats

KEPT_GOAL, BYTES_GOAL = 0.9, 4_000_000
CORPUS_FILES = ("simplewiki.txt.xz", "enwiki_core.txt.xz")


def sentences_of(corpus: Path, *, texts: int) -> list[str]:
    """Sentences of 4 to 40 words, drawn from all over the files."""
    found: list[str] = []
    for name in CORPUS_FILES:
        with lzma.open(corpus / name, "rt", encoding="utf-8") as file:
            for line in file:
                found += [
                    part for part in line.strip().replace("? ", "?\n").replace(". ", ".\n").split("\n") if 4 <= len(part.split()) <= 40
                ]
                if len(found) > 20 * texts:
                    break
    return drop_repeats(random.Random(0).sample(found, min(texts, len(found)))).texts


def main():
    chosen = arguments(__doc__)
    corpus = chosen.data.parent / "corpus"
    texts = sentences_of(corpus, texts=4000 if chosen.quick else 200_000)
    teacher = Embedder.load(minilm_folder(), device="cpu", dtype="float32")
    vectors = teacher.encode(texts)  # once for all students
    progress = Progress.for_terminal()
    scores: dict[str, list[float]] = {"teacher": [], "pqrnn": [], "static": [], "static, untrained": []}
    sizes: dict[str, int] = {}
    seeds = (13,) if chosen.quick else (13, 14, 15)
    with tempfile.TemporaryDirectory() as place:
        np.save(Path(place) / "vectors.npy", vectors)
        for seed in seeds:
            common = {"seed": seed, "device": "cpu", "progress": progress}
            pqrnn = distil(Path(place) / "vectors.npy", texts, **common)
            room = pqrnn.sizes["student_bytes"]
            # as many numbers a token as fit beside the tokenizer's file, so that both students weigh the same
            tokenizer_bytes = len(teacher.tokenizer.backend_tokenizer.to_str().encode())
            static_dim = max(8, (room - tokenizer_bytes) // (len(teacher.tokenizer) + 4 * teacher.dim))
            same = common | {"student": "static", "static_dim": static_dim, "token_vectors": str(minilm_folder())}
            made = {
                "pqrnn": pqrnn,
                "static": distil(Path(place) / "vectors.npy", texts, **same),
                "static, untrained": distil(Path(place) / "vectors.npy", texts, **same, epochs=0),
            }
            sizes |= {name: int(result.sizes["student_bytes"] or 0) for name, result in made.items()}
            for name, encoder in {"teacher": teacher, **{name: result.student for name, result in made.items()}}.items():
                _, mean = evaluate([encoder], ("sts",), chosen.data, resamples=10, progress=progress).headline()
                scores[name].append(mean.figures[0].value)
    assert sizes["static"] <= 1.02 * sizes["pqrnn"], sizes
    kept = sorted(student / whole for student, whole in zip(scores["pqrnn"], scores["teacher"], strict=True))
    beyond = sorted(student / other for student, other in zip(scores["pqrnn"], scores["static"], strict=True))
    claims = [
        Claim("embed, mean STS Spearman kept", float(np.median(kept)), "times the teacher's", KEPT_GOAL, (kept[0], kept[-1]), None),
        Claim("embed, against a static student of equal bytes", float(np.median(beyond)), "times its", 1.0, (beyond[0], beyond[-1]), None),
        Claim("embed, bytes", sizes["pqrnn"] / 1e6, "MB", BYTES_GOAL / 1e6, (sizes["pqrnn"] / 1e6,) * 2, None),
    ]
    finish("distil_quality", claims, {"scores": scores, "sizes_bytes": sizes, "texts": len(texts)}, quick=chosen.quick)


if __name__ == "__main__":
    main()

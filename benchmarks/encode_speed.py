"""Texts a second against sentence-transformers on the same MiniLM and the same texts, tokenising included in both."""

import random

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from measuring import Claim, arguments, finish, in_turns, minilm_folder, ratio_of, sts_sentences
from tain.models.embedder import Embedder

MAX_TOKENS = 256


def main():
    chosen = arguments(__doc__)
    sentences = sts_sentences(chosen.data)
    short = sentences[: 500 if chosen.quick else 2000]
    joined = [" ".join(sentences[start : start + 12]) for start in range(0, 6000, 12)]
    long = joined[: 40 if chosen.quick else 100]
    mixed = [*short[: len(short) // 2], *long[: len(long) // 3]]
    random.Random(0).shuffle(mixed)
    folder = str(minilm_folder())
    plain = SentenceTransformer(folder, device="cpu")
    half = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": torch.bfloat16})
    ours = Embedder.load(folder, dtype="float32", device="cpu", max_tokens=MAX_TOKENS)
    default = Embedder.load(folder, device="cpu", max_tokens=MAX_TOKENS)
    claims: list[Claim] = []
    details: dict[str, object] = {"default_number_type": str(next(default.encoder.parameters()).dtype)}
    for name, texts in {"short": short, "long": long, "mixed": mixed}.items():
        theirs_vectors, our_vectors = plain.encode(texts, batch_size=32), ours.encode(texts)
        apart = float(np.abs(theirs_vectors - our_vectors).max())
        cosine = float((theirs_vectors * default.encode(texts)).sum(1).min())
        assert apart < 1e-5, f"float32 vectors differ by {apart}"
        assert cosine > 0.999, f"default vectors have cosine {cosine}"
        rivals = {
            "theirs": lambda t=texts: plain.encode(t, batch_size=32),
            "theirs, bfloat16": lambda t=texts: half.encode(t, batch_size=32),
            "ours float32": lambda t=texts: ours.encode(t),
            "ours": lambda t=texts: default.encode(t),
        }
        times = in_turns(rivals, repeats=1 if chosen.quick else 3)
        best = min(("theirs", "theirs, bfloat16"), key=lambda rival, t=times: np.median(t[rival]))
        ratio32, spread32 = ratio_of(times["theirs"], times["ours float32"])
        ratio, spread = ratio_of(times["theirs"], times["ours"])
        ratio_best, spread_best = ratio_of(times[best], times["ours"])
        unit = "times sentence-transformers"
        claims += [
            Claim(f"encode, {name} texts, float32 both", ratio32, unit, 1.15, spread32, apart),
            Claim(f"encode, {name} texts, our default against their float32", ratio, unit, 2.5, spread, 1 - cosine),
            Claim(f"encode, {name} texts, our default against their best ({best})", ratio_best, unit, None, spread_best, 1 - cosine),
        ]
        details[name] = {
            "texts": len(texts),
            "times_s": times,
            "texts_per_s": {n: len(texts) / float(np.median(t)) for n, t in times.items()},
        }
    finish("encode_speed", claims, details, quick=chosen.quick)


if __name__ == "__main__":
    main()

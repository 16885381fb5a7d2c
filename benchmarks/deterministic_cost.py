"""What ``deterministic=True`` costs: processor time of encoding each text alone against batches, tain-mini in float32 on one thread.

Tokenising counts. Before anything is timed, the bits of a text are compared among other texts and alone.
"""

import time

import numpy as np

from measuring import Claim, arguments, finish, ratio_of, sts_sentences


def main():
    chosen = arguments(__doc__)
    import torch

    from tain.exported.encoder import ExportedEncoder
    from tain.models.embedder import Embedder

    torch.set_num_threads(1)
    sentences = sts_sentences(chosen.data)
    short = sentences[: 100 if chosen.quick else 1000]
    long = [" ".join(sentences[start : start + 12]) for start in range(0, 12 * (10 if chosen.quick else 100), 12)]
    encoders = {"torch": Embedder.load("tain-mini", device="cpu", dtype="float32"), "onnx": ExportedEncoder.load("tain-mini", threads=1)}
    claims, details = [], {}
    for backend, encoder in encoders.items():
        for kind, texts in (("short", short), ("long", long)):
            apart = float(np.abs(encoder.encode(texts, deterministic=True) - encoder.encode(texts)).max())
            alone = encoder.encode(texts[3], deterministic=True)
            assert alone.tobytes() == encoder.encode(texts[::-1], deterministic=True)[-4].tobytes()
            taken: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(3 if chosen.quick else 7):
                for is_alone, times in taken.items():
                    began_s = time.process_time()
                    encoder.encode(texts, deterministic=is_alone)
                    times.append(time.process_time() - began_s)
            ratio, spread = ratio_of(taken[True], taken[False])
            claims.append(
                Claim(f"deterministic encoding of {kind} texts, {backend}", ratio, "times the usual processor time", None, spread, apart)
            )
            details[f"{backend} {kind}"] = {"texts": len(texts), "usual_s": taken[False], "deterministic_s": taken[True]}
    finish("deterministic_cost", claims, details, quick=chosen.quick)


if __name__ == "__main__":
    main()

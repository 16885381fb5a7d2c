"""One update by Muon of tain-mini's layers: torch's Muon, which iterates in bfloat16, and tain's on a float32 model.

On a processor without bfloat16 products, torch's takes far longer than the gradient of a batch. Both orthogonalise the same gradients.
"""

import numpy as np
import torch

from measuring import Claim, arguments, finish, in_turns, ratio_of
from tain.foundation.machine import fastest_dtype
from tain.models.embedder import Embedder
from tain.training.optimizer import MasterWeights, StackedMuon, muon_and_adamw


def main():
    chosen = arguments(__doc__)
    model = Embedder.load("tain-mini", dtype="float32").encoder.model
    matrices = [each for name, each in model.named_parameters() if each.ndim == 2 and "embedding" not in name]
    if chosen.quick:
        matrices = matrices[:4]
    generator = torch.Generator().manual_seed(13)
    gradients = [torch.randn(each.shape, generator=generator) for each in matrices]
    settings = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}

    def updating(make):
        own = [each.detach().clone().requires_grad_() for each in matrices]
        optimizer = make(own)

        def update():
            for each, gradient in zip(own, gradients, strict=True):
                each.grad = gradient
            optimizer.step()

        return own, update

    theirs, by_torch = updating(lambda own: torch.optim.Muon(own, **settings))
    plain, in_float32 = updating(lambda own: StackedMuon(own, dtype=torch.float32, **settings))
    by_torch()
    in_float32()
    moved = torch.cat([(one - start).flatten() for one, start in zip(theirs, matrices, strict=True)])
    differs = torch.cat([(one - other).flatten() for one, other in zip(theirs, plain, strict=True)])
    whole = muon_and_adamw(
        MasterWeights(model, dtype=torch.float32),
        matrix_learning_rate=0.0,
        embedding_learning_rate=0.0,
        other_learning_rate=0.0,
        embeddings=[name for name, each in model.named_parameters() if "embedding" in name],
        weight_decay=0.0,
    )

    def whole_step():
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        whole.step()

    times = in_turns({"torch": by_torch, "tain": in_float32, "tain, with AdamW for the rest": whole_step}, repeats=2 if chosen.quick else 3)
    ratio, spread = ratio_of(times["torch"], times["tain"])
    claims = [Claim("time of one update, torch's Muon over tain's in float32", ratio, "times", None, spread, None)]
    details = {
        "matrices": len(matrices),
        "faster data type here": str(fastest_dtype("cpu")).removeprefix("torch."),
        "seconds": {name: [round(each, 3) for each in found] for name, found in times.items()},
        "difference of the updates over their size": float(np.sqrt((differs.square().mean() / moved.square().mean()).item())),
    }
    finish("muon_speed", claims, details, quick=chosen.quick)


if __name__ == "__main__":
    main()

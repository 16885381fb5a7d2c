"""Write the graph of the built-in model into its folder: a few hundred kilobytes that read their weights from model.safetensors.

Run it after the weights change. It exports tain-mini, compares the graph with torch, takes the weights out and compares again.
"""

import dataclasses
import sys
import tempfile
from importlib import resources
from pathlib import Path

import numpy as np
import onnx

from tain.exported.encoder import ExportedEncoder
from tain.exported.folder import FLOAT_FILE, file_digest, read_export
from tain.foundation.progress import Progress
from tain.foundation.tensors import read_arrays
from tain.recipes.export.light import without_weights
from tain.recipes.export.recipe import export
from tain.recipes.export.texts import built_in_texts


def main():
    target = Path(str(resources.files("tain") / "assets" / "tain_mini"))
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "mini"
        export("tain-mini", made, int8=False, progress=Progress("lines"))
        whole = ExportedEncoder.load(made)
        texts = built_in_texts()[::4]
        expected = whole.encode(texts)
        light, weights = without_weights(onnx.load(str(made / FLOAT_FILE)), read_arrays(target / "model.safetensors"))
        (target / "onnx").mkdir(exist_ok=True)
        (target / FLOAT_FILE).write_bytes(light.SerializeToString())
        digests = {file: file_digest(target / file) or "" for file in (FLOAT_FILE, "tokenizer.json", "model.safetensors")}
        record = read_export(made, name="tain-mini")
        dataclasses.replace(record, digests=digests, weights={name: list(place) for name, place in weights.items()}).write(target)
    apart = float(np.abs(ExportedEncoder.load("tain-mini").encode(texts) - expected).max())
    size = (target / FLOAT_FILE).stat().st_size
    print(f"{len(weights)} weights read from model.safetensors, {size:,} bytes of graph, largest difference {apart:.1e}")
    if apart > 1e-5:
        sys.exit("error: the graph without weights gives other vectors")


if __name__ == "__main__":
    main()

"""Do other programs read an exported folder and give tain's vectors? onnxruntime alone, sentence-transformers, fastembed, transformers.js.

fastembed and transformers.js are not among the development packages. Give the Python of a venv that has fastembed, and a folder in which
``npm install @huggingface/transformers`` was run; a reader that is not given is named as not tried.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from measuring import minilm_folder

TEXTS = [
    "A cat sleeps on the roof.",
    "The quarterly report shows that sales grew in the north.",
    "sea",
    "Der Zug fährt von Gleis sieben ab.",
]

_FASTEMBED = """
import json, sys
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
folder, dim, texts = json.loads(sys.argv[1])
TextEmbedding.add_custom_model(model="tain/exported", pooling=PoolingType.MEAN, normalization=True, dim=dim,
    sources=ModelSource(url="file:///not-used"), model_file="onnx/model.onnx")
model = TextEmbedding("tain/exported", specific_model_path=folder)
print(json.dumps([vector.tolist() for vector in model.embed(texts)]))
"""

_JAVASCRIPT = """
import { env, AutoTokenizer, AutoModel } from '@huggingface/transformers';
const [folder, dtype, texts] = JSON.parse(process.argv[2]);
env.allowRemoteModels = false;
env.localModelPath = folder.slice(0, folder.lastIndexOf('/') + 1);
const name = folder.slice(folder.lastIndexOf('/') + 1);
const tokenizer = await AutoTokenizer.from_pretrained(name);
const model = await AutoModel.from_pretrained(name, { dtype });
const output = await model(await tokenizer(texts, { padding: true, truncation: true }));
console.log(JSON.stringify(output.sentence_embedding.tolist()));
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exported", type=Path, help="folder of tain export; default: MiniLM is exported")
    parser.add_argument("--fastembed", type=Path, help="Python of a venv with fastembed")
    parser.add_argument("--node", type=Path, help="folder with node_modules/@huggingface/transformers")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = chosen.exported or _exported(Path(work) / "minilm")
        results = [
            _compared(name, read, folder.resolve())
            for name, read in (
                ("onnxruntime", onnxruntime_alone),
                ("sentence-transformers", sentence_transformers),
                ("fastembed", lambda made: fastembed(made, chosen.fastembed)),
                ("transformers.js float32", lambda made: transformers_js(made, chosen.node, "fp32")),
                ("transformers.js int8", lambda made: transformers_js(made, chosen.node, "q8")),
            )
        ]
    for each in results:
        print(json.dumps(each))
    sys.exit(int(any(each.get("equal") is False for each in results)))


def _exported(folder: Path) -> Path:
    from tain.recipes.export.recipe import export

    return export(minilm_folder(), folder).folder


def _compared(name, read, folder: Path) -> dict:
    from tain.exported.encoder import ExportedEncoder

    found = read(folder)
    if found is None:
        return {"reader": name, "tried": False}
    is_int8 = name.endswith("int8")
    expected = ExportedEncoder.load(folder, dtype="int8" if is_int8 else "float32").encode(TEXTS)
    largest = float(np.abs(np.asarray(found) - expected).max())
    return {"reader": name, "tried": True, "largest_difference": largest, "equal": largest < (0.05 if is_int8 else 1e-4)}


def onnxruntime_alone(folder: Path) -> np.ndarray:
    import onnxruntime
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(TEXTS)
    session = onnxruntime.InferenceSession(str(folder / "onnx/model.onnx"), providers=["CPUExecutionProvider"])
    ids, mask = (np.array([getattr(each, name) for each in encoded], dtype=np.int64) for name in ("ids", "attention_mask"))
    fed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return np.asarray(session.run(["sentence_embedding"], {each.name: fed[each.name] for each in session.get_inputs()})[0])


def sentence_transformers(folder: Path) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    return np.asarray(SentenceTransformer(str(folder), device="cpu").encode(TEXTS))


def fastembed(folder: Path, python: Path | None) -> list | None:
    from tain.exported.folder import read_export

    return (
        None
        if python is None
        else _printed([str(python), "-c", _FASTEMBED], [str(folder), read_export(folder, name=str(folder)).dim, TEXTS])
    )


def transformers_js(folder: Path, place: Path | None, dtype: str) -> list | None:
    if place is None:
        return None
    script = place / "export_readers.mjs"
    script.write_text(_JAVASCRIPT, encoding="utf-8")
    return _printed(["node", str(script)], [str(folder), dtype, TEXTS])


def _printed(command: list[str], argument: list) -> list:
    done = subprocess.run([*command, json.dumps(argument)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"error: {command[0]} failed: {done.stderr.strip()[-1500:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()

"""``tain demo`` with nothing replaced: this machine's docstrings, the built-in model, real training."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tain import Embedder


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    command = [sys.executable, "-m", "tain", "demo", "-o", str(folder), "--minutes", "3", "--sentences", "600", "--functions", "40"]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # tests may run side by side
    return folder, subprocess.run(command, capture_output=True, text=True, check=False, env=alone)


def test_it_trains_the_built_in_model_and_writes_a_page(demo):
    folder, done = demo
    assert done.returncode == 0, done.stderr
    record = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    assert (record["model"], record["sentences"], record["functions"]) == ("tain-mini", 600, 40)  # all that were read
    assert record["training_s"] > 0
    assert {change["name"] for change in record["changes"]} == {"R@1", "R@10", "MRR"}
    assert record["finding"] in " ".join(done.stdout.split())
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "default-src 'none'" in page  # self-contained
    assert 'src="http' not in page
    assert 'href="http' not in page
    assert str(folder / "page.html") in done.stdout.replace("\n", "")


def test_its_encoder_was_trained(demo):
    folder, _ = demo
    texts = ["Read a file line by line.", "Iterate over the lines of a file.", "Bake a cake."]
    made, untouched = Embedder.load(folder / "encoder", dtype="float32"), Embedder.load("tain-mini", dtype="float32")
    found, before = (encoder.similarity(encoder.encode(texts), encoder.encode(texts)) for encoder in (made, untouched))
    assert np.isfinite(found).all()
    assert np.abs(found - before).max() > 0.05

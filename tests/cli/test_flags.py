"""Flags that commands share: every command that takes a model can run on any device, and asks before it runs a folder's code."""

import json
import shutil
import sys

import pytest
from command_line import run
from safetensors.torch import load_file, save_file

from tain.cli.main import VERBS, build_app

CODE = """
from pathlib import Path

from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel

(Path(__file__).parent / "has_run").touch()


class OwnConfig(BertConfig):
    model_type = "own-code"


class OwnModel(BertModel):
    config_class = OwnConfig


class OwnForMaskedLM(BertForMaskedLM):
    config_class = OwnConfig


class OwnForSequenceClassification(BertForSequenceClassification):
    config_class = OwnConfig
"""
HEADS = {"AutoModel": "OwnModel", "AutoModelForMaskedLM": "OwnForMaskedLM"}
LABEL_HEADS = {"AutoModel": "OwnModel", "AutoModelForSequenceClassification": "OwnForSequenceClassification"}
CPU = ("--device", "cpu", "--quiet")
FLOAT = (*CPU, "--dtype", "float32")
TINY_RUN = ("--batch-texts", 8, "--held-out", 0, *FLOAT)
TINY_RANK = ("--batch-contexts", 8, "--epochs", 1, "--context-tokens", 20, "--candidate-tokens", 16, "--held-out", 0, "--type", "bi")
TINY_STUDENT = ("--features", 64, "--bottleneck", 16, "--state", 8, "--layers", 1, "--batch-texts", 8, "--epochs", 1, "--held-out", 0)
TINY_LM = ("--tokens", 600, "--block-tokens", 18, "--batch-blocks", 4, "--optimizer", "adamw", *FLOAT)
COMMANDS = {
    "mirror": ("{model}", "{texts}", "-o", "{out}", "--max-tokens", 20, *TINY_RUN),
    "pretrain": ("{model}", "{texts}", "-o", "{out}", *TINY_LM),
    "distil": ("{model}", "{texts}", "-o", "{out}", *TINY_STUDENT, *CPU),
    "encode": ("{model}", "{texts}", "-o", "{out}.npy", *CPU),
    "correct": ("{model}", "{texts}", "-o", "{out}", "--remove-top", 1, *CPU),
    "label": ("{labeller}", "{texts}", *CPU),
    "evaluate": ("{model}", "--suite", "label-free", "--texts", "{texts}", "--resamples", 20, *FLOAT),
    "evaluate static": ("static:{half}", "--suite", "{scored}", "--resamples", 20, *FLOAT),
    "evaluate mlm": ("{model}", "--suite", "mlm", "--texts", "{texts}", "--max-tokens", 18, "--resamples", 20, *FLOAT),
    "evaluate tagging": ("{labeller}", "--suite", "tagging", "--data", "{labelled}", "--resamples", 20, *CPU),
    "compare": ("{model}", "{many}", "-o", "{out}", "--candidates", "static+raw", "--held-out", 20, "--resamples", 20, *FLOAT),
    "inspect": ("{model}", "a red house", *CPU),
    "gradients": ("{model}", "{texts}", "--blocks", 8, "--block-tokens", 18, "--masking-rate", 0.25, *CPU),
    "rank train": ("{model}", "{pairs}", "-o", "{out}", *TINY_RANK, *FLOAT),
    "rank score": ("{model}", "{pairs}", *FLOAT),
    "rank search": ("{model}", "{texts}", "--index", "{out}", "--candidates", "{texts}", *FLOAT),
    "rank evaluate": ("{model}", "--pairs", "{pairs}", "--candidates", 4, "--no-latency", "--resamples", 20, *FLOAT),
    "export": ("{model}", "-o", "{out}", "--texts", "{texts}", "--no-int8", "--quiet"),
    "bench": ("{model}", "--texts", 10, "--repeats", 1, "--threads", 1, "--quiet"),
    "serve": ("{model}", "--port", 0, *FLOAT),
}


ON_THE_CPU = {"export", "bench"}  # graphs are written and timed on the CPU, so these have no --device


def commands():
    """Every command of the app with its parsed arguments, subcommands in place of their group."""
    app = build_app()
    for verb in VERBS:
        names = [name for name in app[verb] if not name.startswith("-")]
        for name in names or [""]:
            command = app[verb][name] if name else app[verb]
            yield f"{verb} {name}".strip(), command.assemble_argument_collection()


def takes_a_model(arguments):
    return any(argument.name in ("MODEL", "MODELS", "TEACHER") for argument in arguments)


def test_every_command_with_a_model_has_a_device_and_asks_before_foreign_code_runs():
    lacking = {
        name: missing
        for name, arguments in commands()
        if takes_a_model(arguments)
        if (
            missing := ({"--trust-remote-code"} if name in ON_THE_CPU else {"--device", "--trust-remote-code"})
            - {flag for argument in arguments for flag in argument.names}
        )
    }
    assert lacking == {}


def test_every_command_with_a_model_is_run_below():
    assert {name for name, arguments in commands() if takes_a_model(arguments)} <= set(COMMANDS)


@pytest.fixture
def foreign(bert_folder, save_labeller, sentences, tmp_path, monkeypatch):
    """Folders of models with code of their own, and files for every command."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))  # for commands that start a process
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        monkeypatch.delitem(sys.modules, name)  # the code of an earlier test, which would not be imported again
    monkeypatch.setattr("tain.serving.server.run", lambda *_, load, **__: load() is None)  # returns at once: the test is about loading
    labeller = save_labeller("SequenceClassification", ["go", "stop"])
    for name, folder, heads in (("model", bert_folder, HEADS), ("labeller", labeller, LABEL_HEADS)):
        shutil.copytree(folder, tmp_path / name)
        (tmp_path / name / "modeling_own.py").write_text(CODE)
        config = json.loads((tmp_path / name / "config.json").read_text())
        classes = {"AutoConfig": "OwnConfig", **heads}
        config |= {"model_type": "own-code", "auto_map": {auto: f"modeling_own.{own}" for auto, own in classes.items()}}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    shutil.copytree(tmp_path / "model", tmp_path / "half")
    weights = {name: tensor.bfloat16() for name, tensor in load_file(bert_folder / "model.safetensors").items()}
    save_file(weights, tmp_path / "half" / "model.safetensors", metadata={"format": "pt"})  # not read without the model's class
    longer = [f"{first} while {second}" for first in sentences for second in sentences[:4]]
    tables = {
        "texts": longer,
        "many": [f"{first} while {second}" for first in sentences for second in longer],
        "pairs": ["context\tanswer", *(f"{text}\t{text.split(' while ')[0]}" for text in longer)],
        "scored": ["sentence1\tsentence2\tscore", *(f"{text}\t{longer[-1]}\t{number}" for number, text in enumerate(longer))],
        "labelled": ["text\tintent", *(f"{text}\t{('go', 'stop')[number % 2]}" for number, text in enumerate(longer))],
    }
    paths = {name: tmp_path / name for name in ("model", "labeller", "half", "out")}
    for name, lines in tables.items():
        paths[name] = tmp_path / (f"{name}.txt" if name in ("texts", "many") else f"{name}.tsv")
        paths[name].write_text("\n".join(lines) + "\n")
    return paths


def has_run(paths):
    """Whether the models' code was imported: transformers imports its copy of the file."""
    return any(paths["model"].parent.rglob("has_run"))


@pytest.mark.parametrize("command", COMMANDS)
def test_code_of_a_model_runs_with_the_flag_only(command, foreign, capsys):
    verb = command.split() if command.startswith("rank") else command.split()[:1]
    arguments = [str(part).format(**foreign) for part in COMMANDS[command]]
    assert run(*verb, *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "--trust-remote-code" in said
    assert not has_run(foreign)
    assert run(*verb, *arguments, "--trust-remote-code") == 0, capsys.readouterr().err
    assert has_run(foreign)


def test_input_embeddings_in_float32_need_no_code(foreign):
    assert run("evaluate", f"static:{foreign['model']}", "--suite", foreign["scored"], "--resamples", 20, *FLOAT) == 0
    assert not has_run(foreign)

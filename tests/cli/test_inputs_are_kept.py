"""No command replaces or removes what it reads, whatever ``--overwrite`` says."""

import pytest
from command_line import run

FILES = ("tain.json", "config.json", "texts.txt", "pairs.tsv", "settings.toml", "vectors.npy")
COMMANDS = {
    "mirror, model": "mirror out texts.txt -o out",
    "mirror, texts": "mirror tain-mini out/texts.txt -o out",
    "mirror, documents": "mirror tain-mini texts.txt --recipe best --documents out/texts.txt -o out",
    "mirror, settings": "mirror tain-mini texts.txt --settings out/settings.toml -o out",
    "mirror, checkpoint": "mirror .out.checkpoint-13 texts.txt -o out",
    "compare, model": "compare out texts.txt -o out",
    "compare, texts": "compare tain-mini out/texts.txt -o out",
    "compare, documents": "compare tain-mini texts.txt --documents out/texts.txt -o out",
    "compare, suite": "compare tain-mini texts.txt --suite out/pairs.tsv -o out",
    "distil, teacher": "distil out texts.txt -o out",
    "distil, matrix": "distil out/vectors.npy texts.txt -o out",
    "distil, texts": "distil tain-mini out/texts.txt -o out",
    "distil, token vectors": "distil tain-mini texts.txt --token-vectors out -o out",
    "distil, start": "distil tain-mini texts.txt --init-from out -o out",
    "correct, model": "correct out texts.txt --whiten -o out",
    "correct, texts": "correct tain-mini out/texts.txt --whiten -o out",
    "correct, language": "correct tain-mini --language en=out/texts.txt -o out",
    "pretrain, model": "pretrain out texts.txt -o out",
    "pretrain, texts": "pretrain scratch texts.txt out/texts.txt -o out",
    "pretrain, validation": "pretrain scratch texts.txt --validation out/texts.txt -o out",
    "pretrain, words": "pretrain tain-mini texts.txt --words out/texts.txt -o out",
    "pretrain, shards": "pretrain scratch texts.txt --shards out/shards -o out",
    "pretrain, tokenizer": "pretrain scratch texts.txt --tokenizer out -o out",
    "pretrain, settings": "pretrain scratch texts.txt --settings out/settings.toml -o out",
    "export, model": "export out -o out",
    "export, texts": "export tain-mini --texts out/texts.txt -o out",
    "rank train, model": "rank train out pairs.tsv -o out",
    "rank train, pairs": "rank train tain-mini out/pairs.tsv -o out",
    "rank train, validation": "rank train tain-mini pairs.tsv --validation out/pairs.tsv -o out",
    "rank train, teacher": "rank train tain-mini pairs.tsv --teacher out -o out",
    "rank train, miner": "rank train tain-mini pairs.tsv --mine-with out -o out",
    "rank score, pairs": "rank score tain-mini pairs.tsv -o pairs.tsv",
    "rank search, contexts": "rank search tain-mini texts.txt --index index -o texts.txt",
    "rank search, index": "rank search tain-mini texts.txt --index out -o out/tain.json",
    "rank evaluate, pairs": "rank evaluate lexical --pairs pairs.tsv -o pairs.tsv",
    "rank index, texts": "rank index index --model tain-mini --candidates texts.txt --to-faiss texts.txt",
    "encode, texts": "encode tain-mini vectors.npy -o vectors.npy",
    "encode, folder of texts": "encode tain-mini out -o out/vectors.npy",
    "label, texts": "label out texts.txt -o texts.txt",
    "evaluate, table": "evaluate tain-mini --suite pairs.tsv -o pairs.tsv",
    "evaluate, texts": "evaluate en=tain-mini,de=out --suite label-free --texts texts.txt -o texts.txt",
    "evaluate, tagging": "evaluate out --suite tagging --data pairs.tsv -o pairs.tsv",
    "inspect, texts": "inspect tain-mini --texts texts.txt --csv texts.txt",
    "gradients, texts": "gradients tain-mini texts.txt -o texts.txt",
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_an_input_is_kept(command, tmp_path, monkeypatch, capsys):
    for folder in ("", "out", ".out.checkpoint-13"):
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in FILES:
            (tmp_path / folder / name).write_text("a text\n" if name == "texts.txt" else "")
    (tmp_path / "out" / "shards").mkdir()
    (tmp_path / "pairs.tsv").write_text("text\tintent\tslots\na b\tgo\tO O\n")
    before = sorted((path, path.stat().st_ino) for path in tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    assert run(*command.split(), "--overwrite") == 2
    said = capsys.readouterr().err
    assert "would replace" in said and "which is read: choose another name" in said
    assert said.count("\n") == 1
    assert sorted((path, path.stat().st_ino) for path in tmp_path.rglob("*")) == before

"""Options that would have no effect are refused."""

import pytest
from command_line import run


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("export tain-mini -o out --column text", "column is 'text', a column of --texts, but none are given"),
        ("rank index idx --compact --column text", "--column concerns candidates to add, but none are given"),
        ("rank index idx --compact --keep year", "--keep concerns candidates to add, but none are given"),
        (
            "rank search tain-mini t.txt --index idx --candidate-column text",
            "candidate_column is 'text', a column of --candidates or --delete",
        ),
        ("encode --merge shards -o out.npy --dims 3 --output-dtype int8", "--output-dtype, --dims has no effect with --merge: remove it"),
        ("label --merge shards -o out.jsonl --column text", "--column has no effect with --merge: remove it"),
    ],
)
def test_an_option_without_effect_is_refused(command, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*command.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}") and said.count("\n") == 1
    assert not list(tmp_path.iterdir())

"""The commands of docs/tutorial_data.md, on the corpus that it describes."""

import json
import pydoc_data.topics
import re
import shlex
from pathlib import Path

import fsspec
import pytest

from llmkit import cli, manifest

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial_data.md").read_text()


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """my_corpus/ in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    texts = list(pydoc_data.topics.topics.values())
    (tmp_path / "my_corpus" / "letters").mkdir(parents=True)
    for i, text in enumerate(texts[:30]):
        (tmp_path / "my_corpus" / "letters" / f"{i}.txt").write_text(text)
    (tmp_path / "my_corpus" / "notes.md").write_text("\n\n".join(texts[30:40]) * 2)
    posts = [{"id": f"post/{i}", "licence": "CC0-1.0", "text": text} for i, text in enumerate(texts[40:70])]
    rows = [json.dumps(post) + "\n" for post in posts]
    (tmp_path / "my_corpus" / "forum.jsonl").write_text("".join(rows))
    yield tmp_path
    fsspec.filesystem("memory").store.clear()


def commands(page):
    """The command lines of its shell blocks."""
    return [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]


@pytest.mark.slow
def test_every_command_of_the_page_runs(corpus, capsys):
    lines = commands(PAGE)
    assert len(lines) == 9
    for line in lines:
        program, *words = shlex.split(line.replace("s3://my-bucket", "memory://my-bucket"))
        assert program == "llmkit"
        assert cli.main(words) == 0, (line, capsys.readouterr().err)
    with (corpus / "runs/data/train.jsonl").open() as file:
        licences = {(row["source"], row["licence"]) for row in map(json.loads, file)}
    assert licences >= {("my_corpus/forum.jsonl", "CC0-1.0"), ("my_corpus/notes.md", "not stated")}
    used = manifest.read(corpus / "runs" / "tokenizer_weighted")["result"]["sources"]
    assert {name: round(n / sum(used.values()), 1) for name, n in used.items()} == {
        "my_corpus/letters": 0.6,
        "my_corpus/notes.md": 0.2,
        "my_corpus/forum.jsonl": 0.2,
    }
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        capsys.readouterr()
        exec(compile(code, "docs/tutorial_data.md", "exec"), {})  # noqa: S102 - our own page
        assert "[" in capsys.readouterr().out.splitlines()[-1]
    assert (corpus / "runs" / "model" / "manifest.json").is_file()
    assert len(list((corpus / "cache" / "llmkit").glob("shards/*/shards.json"))) == 0, "nothing was fetched"

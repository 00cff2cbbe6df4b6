"""A recipe of a few steps over real shards, in a folder of its own."""

import json
from pathlib import Path

import pytest
import yaml

from llmkit import manifest, verbs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def small_recipe(tmp_path_factory, tokenizer_dir) -> Path:
    """A 4-step ZeRO-2 pretraining of a tiny decoder."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "data").mkdir()
    paragraphs = (ROOT / "LICENSE").read_text().split("\n\n")
    for split, texts in (("train", paragraphs), ("heldout", paragraphs[:9])):
        lines = [
            json.dumps({"id": str(n), "source": "licence", "text": text}) for n, text in enumerate(texts)
        ]
        (folder / "data" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    manifest.write(folder / "data", verb="data.collect", status="done", result={})
    shards = {"data": str(folder / "data"), "tokenizer": str(tokenizer_dir)}
    verbs.perform("data.shard", shards, {"out": str(folder / "shards")}, verbs.Options())
    recipe = {
        "model": {"name": "decoder", "width": 32, "layers": 2, "heads": 2, "context": 64},
        "objective": {"name": "causal"},
        "data": {"name": "tokens", "shards": str(folder / "shards"), "seq_len": 64},
        "run": {"steps": 4, "log_every": 1},
        "batch": {"rows": 4},
        "parallel": {"backend": "zero2", "precision": "fp32", "compile": "off"},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture
def losses():
    """`losses(run directory)`: the loss of every step."""

    def read(run_dir: Path) -> list[float]:
        return [json.loads(line)["loss"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]

    return read

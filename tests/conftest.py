"""What all tests share: quiet, single-threaded, offline."""

import json
import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory) -> Path:
    """A vocabulary of 400 pieces, trained on the licence."""
    from llmkit import manifest
    from llmkit.tokenizer import train

    data, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("tokenizer")
    record = {"id": "1", "source": "licence", "text": (Path(__file__).parents[1] / "LICENSE").read_text()}
    for split in ("train", "heldout"):
        (data / f"{split}.jsonl").write_text(json.dumps(record) + "\n")
    result = train.work(train.TokenizerSpec(data=str(data), vocab_size=400, check_lines=10), out)
    manifest.write(out, verb="tokenizer.train", status="done", result=result)
    return out


@pytest.fixture(scope="session")
def code_shards(tmp_path_factory) -> str:
    """Token shards of llmkit's own source text."""
    from llmkit import manifest
    from llmkit.data import collect, shard
    from llmkit.tokenizer import train

    root = tmp_path_factory.mktemp("shards")
    texts = root / "texts"
    texts.mkdir()
    for number, file in enumerate(sorted((Path(__file__).parents[1] / "llmkit").rglob("*.py"))):
        (texts / f"{number}.txt").write_text(file.read_text(encoding="utf-8") or "empty")
    stages = (
        ("data", collect, collect.Collect(source=str(texts), heldout_frac=0.1)),
        ("tokenizer", train, train.TokenizerSpec(data=str(root / "data"), vocab_size=600, at_most=True)),
        ("shards", shard, shard.Shard(data=str(root / "data"), tokenizer=str(root / "tokenizer"))),
    )
    for name, stage, settings in stages:
        (root / name).mkdir()
        result = stage.work(settings, root / name)
        manifest.write(root / name, config_hash=name, result=result)
    return str(root / "shards")

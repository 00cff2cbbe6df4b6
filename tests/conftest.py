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

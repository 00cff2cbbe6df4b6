"""A small tokenizer with a chat template, and folders of records as `data collect` leaves them."""

import json

import pytest

from llmkit import manifest
from llmkit.data.sources.tasks import Tasks
from llmkit.tokenizer.train import TokenizerSpec, work


def collected(folder, records, heldout=None):
    """The folder, as text; without `heldout`, the same records with other prompts are held out."""
    folder.mkdir(exist_ok=True)
    others = [_asked_otherwise(record) for record in records] if heldout is None else heldout
    for split, some in (("train", records), ("heldout", others)):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in some))
    manifest.write(folder, fingerprint=folder.name)
    return str(folder)


def _asked_otherwise(record):
    key = next((key for key in ("messages", "prompt") if record.get(key)), None)
    if key is None:
        return record
    first, *rest = record[key]
    return {**record, key: [{**first, "content": f"Once more: {first['content']}"}, *rest]}


@pytest.fixture(scope="session")
def conversations():
    return list(Tasks(Tasks.Settings(prompts=4)).records())


@pytest.fixture(scope="session")
def pairs():
    return list(Tasks(Tasks.Settings(kind="pairs", prompts=4)).records())


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory, conversations):
    """The directory of a tokenizer of 512 pieces."""
    folder = tmp_path_factory.mktemp("tokenizer")
    text = "\n".join(message["content"] for record in conversations for message in record["messages"])
    data = collected(folder / "documents", [{"id": "all", "text": text}])
    work(TokenizerSpec(data=data, vocab_size=512, check_lines=1, sentinels=1), folder)
    return str(folder)

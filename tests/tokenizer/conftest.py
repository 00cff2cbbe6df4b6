"""A real corpus that every Python brings along: the language reference of pydoc, 0.5 MB of English."""

import json
import pydoc_data.topics

import pytest

from llmkit.tokenizer import train


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A collected directory; every fifth topic is held out, which is more than 1,000 lines."""
    folder = tmp_path_factory.mktemp("corpus")
    texts = list(pydoc_data.topics.topics.values())
    for name, kept in (("train", [t for i, t in enumerate(texts) if i % 5]), ("heldout", texts[::5])):
        lines = [json.dumps({"id": str(i), "source": "pydoc", "text": t}) for i, t in enumerate(kept)]
        (folder / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory, corpus):
    """A tokenizer directory of 2,000 pieces, and what training it returned."""
    out = tmp_path_factory.mktemp("trained")
    return out, train.work(train.TokenizerSpec(data=str(corpus), vocab_size=2000), out)

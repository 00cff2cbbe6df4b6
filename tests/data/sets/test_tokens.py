"""Rows of tokens: every token a label once, documents kept apart, and the bytes of the corpus adding up."""

import json
import shutil

import numpy as np
import pytest
import torch

from llmkit.data import shard
from llmkit.data.sets.tokens import Tokens
from llmkit.errors import ConfigError, DataError
from llmkit.tokenizer.vocabulary import Tokenizer

TEXTS = [f"Document {i}: " + "you may use the work as it is. " * (i % 7) for i in range(40)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory, tokenizer_dir):
    folder = tmp_path_factory.mktemp("corpus")
    for name in ("data", "shards"):
        (folder / name).mkdir()
    for name, texts in (("train", TEXTS), ("heldout", TEXTS[:5])):
        lines = [json.dumps({"id": str(i), "source": "test", "text": text}) for i, text in enumerate(texts)]
        (folder / "data" / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))
    settings = shard.Shard(data=str(folder / "data"), tokenizer=str(tokenizer_dir), shard_tokens=1000)
    shard.work(settings, folder / "shards")
    assert len(list((folder / "shards").glob("train_*.bin"))) > 1
    return folder / "shards"


def opened(shards, seq_len=32, split="train", **more):
    return Tokens(Tokens.Settings(shards=str(shards), seq_len=seq_len, **more), split, seed=0)


def every_row(dataset):
    return dataset.batch([(i, i) for i in range(len(dataset))])


def plain(tokenizer):
    """(tokens, labels, segment number) of the whole stream, written the obvious way."""
    tokens, labels, segments = [], [], []
    for number, text in enumerate(TEXTS):
        ids = [tokenizer.bos, *tokenizer.encode(text)]
        tokens += ids
        labels += [*ids[1:], -100]
        segments += [number] * len(ids)
    return map(np.array, (tokens, labels, segments))


@pytest.mark.parametrize("seq_len", [2, 7, 32, 100, 1000])
def test_rows_are_the_stream_cut_into_windows(shards, seq_len, tokenizer_dir):
    tokens, labels, segments = plain(Tokenizer.load(tokenizer_dir))
    dataset = opened(shards, seq_len)
    batch = every_row(dataset)
    size = len(dataset) * seq_len
    used = min(size, len(tokens))
    assert batch["tokens"].flatten()[:used].tolist() == tokens[:used].tolist()
    assert batch["labels"].flatten()[:used].tolist() == labels[:used].tolist()
    assert batch["segments"].flatten()[used:].sum() == 0
    assert (batch["labels"].flatten()[used:] == -100).all()
    for row, ids in enumerate(batch["segments"].numpy()):
        here = segments[row * seq_len : (row + 1) * seq_len]
        assert ids[: len(here)].tolist() == (1 + here - here[0]).tolist()


def test_the_bytes_of_the_labels_are_the_bytes_of_the_corpus(shards):
    total = every_row(opened(shards))["bytes"].sum()
    assert total == sum(len(text.encode()) for text in TEXTS)


def test_types_and_shapes_are_the_contracts(shards):
    batch = opened(shards).batch([(0, 1), (5, 0)])
    kinds = {name: (tuple(value.shape), value.dtype) for name, value in batch.items()}
    assert kinds == {
        "tokens": ((2, 32), torch.int64),
        "segments": ((2, 32), torch.int32),
        "labels": ((2, 32), torch.int64),
        "bytes": ((2,), torch.int64),
    }


def test_an_empty_batch_is_one_row_of_padding(shards):
    batch = opened(shards).batch([])
    assert batch["tokens"].shape == (1, 32)
    assert batch["segments"].sum() == 0
    assert (batch["labels"] == -100).all()
    assert batch["bytes"].tolist() == [0]


def test_a_context_longer_than_the_corpus_is_refused_with_the_largest_possible(shards):
    tokens = opened(shards).num_tokens
    opened(shards, tokens - 1)
    with pytest.raises(ConfigError, match=f"set it to at most {tokens - 1}"):
        opened(shards, tokens)
    assert len(opened(shards, tokens, split="heldout")) == 1


def test_shards_of_another_tokenizer_are_refused_naming_both(shards, tmp_path):
    foreign = tmp_path / "foreign"
    shutil.copytree(shards / "tokenizer", foreign)
    with (foreign / "tokenizer.model").open("ab") as file:
        file.write(b"\x18\x00")  # an unknown field: the same pieces, another file
    mine = Tokenizer.load(shards / "tokenizer").fingerprint[:12]
    theirs = Tokenizer.load(foreign).fingerprint[:12]
    with pytest.raises(DataError, match=rf"made with tokenizer {mine}.*{theirs}"):
        opened(shards, tokenizer=str(foreign))
    assert opened(shards, tokenizer=str(shards / "tokenizer")).vocab_size == 400


def test_fingerprints_differ_where_the_rows_do(shards):
    prints = {opened(shards, n, split).fingerprint for n in (16, 32) for split in ("train", "heldout")}
    assert len(prints) == 4
    assert opened(shards).fingerprint == opened(shards).fingerprint

"""A vocabulary with every special piece that noises ask for, and shards of documents of mixed lengths."""

import io
import json
import re
from pathlib import Path

import pytest
import sentencepiece

from llmkit import manifest
from llmkit.data import shard
from llmkit.tokenizer.vocabulary import Tokenizer

SPECIAL = ["[MASK]", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
LICENCE = (Path(__file__).parents[2] / "LICENSE").read_text()


def paragraphs() -> list[str]:
    return [re.sub(r"\s+", " ", part).strip() for part in LICENCE.split("\n\n") if len(part.split()) > 3]


@pytest.fixture(scope="session")
def special_dir(tmp_path_factory) -> Path:
    """A tokenizer of 420 pieces: pad, bos, eos, a mask, 20 sentinels, the three of fill-in-the-middle."""
    proto, folder = io.BytesIO(), tmp_path_factory.mktemp("special")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(paragraphs()),
        model_writer=proto,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        control_symbols=SPECIAL + [f"<extra_id_{i}>" for i in range(20)],
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        add_dummy_prefix=False,
        pad_id=3,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(proto.getvalue())
    manifest.write(folder, verb="tokenizer.train", status="done", fingerprint="special")
    return folder


@pytest.fixture(scope="session")
def special(special_dir) -> Tokenizer:
    return Tokenizer.load(special_dir)


def sharded(folder: Path, tokenizer: Path, texts: list[str], heldout: list[str]) -> str:
    """Shards of `texts` in `folder`."""
    for name in ("data", "shards"):
        (folder / name).mkdir(parents=True)
    for name, part in (("train", texts), ("heldout", heldout)):
        lines = [json.dumps({"id": str(i), "source": "test", "text": text}) for i, text in enumerate(part)]
        (folder / "data" / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))
    settings = shard.Shard(data=str(folder / "data"), tokenizer=str(tokenizer), shard_tokens=1000)
    result = shard.work(settings, folder / "shards")
    manifest.write(folder / "shards", verb="shard", status="done", result=result)
    return str(folder / "shards")


@pytest.fixture(scope="session")
def special_shards(tmp_path_factory, special_dir) -> str:
    """Paragraphs, one very long document, and some of a word or two."""
    texts = [*paragraphs(), " ".join(paragraphs()), "the", "of the", "a"]
    return sharded(tmp_path_factory.mktemp("corpus"), special_dir, texts, paragraphs()[:9])

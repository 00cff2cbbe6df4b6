"""A little world to evaluate in: text, a tokenizer trained on it, a tiny run, conversations and pairs."""

import json
import random

import pytest

from llmkit import manifest
from llmkit.data.collect import Collect
from llmkit.data.collect import work as collect
from llmkit.data.shard import Shard
from llmkit.data.shard import work as shard
from llmkit.engine.recipe import TrainRecipe
from llmkit.engine.run import train
from llmkit.opened import open_model
from llmkit.tokenizer.train import TokenizerSpec
from llmkit.tokenizer.train import work as train_tokenizer

WORDS = [
    "peace",
    "law",
    "trade",
    "union",
    "state",
    "people",
    "work",
    "strong",
    "land",
    "every",
    "the",
    "our",
    "and",
]


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Folders by name: data (documents), tokenizer, run, reward, chats, pairs."""
    root = tmp_path_factory.mktemp("world")
    draw = random.Random(1)
    _write(root / "source", [" ".join(draw.choices(WORDS, k=60)) + "." for _ in range(150)])
    _stage(root / "data", collect, Collect(source=str(root / "source"), heldout_frac=0.2))
    _stage(
        root / "tokenizer",
        train_tokenizer,
        TokenizerSpec(data=str(root / "data"), vocab_size=330, check_lines=10),
    )
    spec = Shard(data=str(root / "data"), tokenizer=str(root / "tokenizer"))
    _stage(root / "shards", shard, spec)
    _records(root)
    train(
        _recipe(
            root, "run", {"name": "causal"}, {"name": "tokens", "shards": str(root / "shards"), "seq_len": 48}
        )
    )
    pairs = {
        "name": "pairs",
        "data": str(root / "pairs"),
        "tokenizer": str(root / "tokenizer"),
        "seq_len": 96,
    }
    train(_recipe(root, "reward", {"name": "reward"}, pairs, init=str(root / "run")))
    return root


@pytest.fixture(scope="session")
def opened(world):
    """The tiny language model."""
    return open_model(world / "run", "lm")


@pytest.fixture(scope="session")
def scorer(world):
    """The tiny reward model."""
    return open_model(world / "reward", "score")


def _recipe(root, name, objective, data, init=None) -> TrainRecipe:
    model = {"name": "decoder", "width": 32, "layers": 2, "heads": 2, "context": 96}
    return TrainRecipe.model_validate(
        {
            "run": {"out": str(root / name), "steps": 3, "log_every": 1},
            "objective": objective,
            "data": data,
            "batch": {"rows": 4},
            "parallel": {"compile": "off", "precision": "fp32", "threads": 1},
            **({"init": init} if init else {"model": model}),
        }
    )


def _stage(out, work, settings) -> None:
    out.mkdir()
    result = work(settings, out)
    lifted = {key: result.pop(key) for key in ("counts", "licences") if key in result}
    manifest.write(out, config=settings.model_dump(mode="json"), result=result, **lifted)


def _write(folder, documents) -> None:
    folder.mkdir()
    for i, text in enumerate(documents):
        (folder / f"{i:03}.txt").write_text(text)


def _records(root) -> None:
    """Questions with answers, and pairs of a longer right and a shorter wrong reply, from two sources."""
    draw = random.Random(2)
    chats, pairs = [], []
    for i in range(80):
        prompt = {"role": "user", "content": f"{' '.join(draw.choices(WORDS, k=3))} {i}?"}
        right, wrong = draw.choice(WORDS), draw.choice(WORDS)
        reply = {"role": "assistant", "content": right}
        chats.append({"id": f"c{i}", "messages": [prompt, reply], "answer": right})
        pairs.append(
            {"id": f"p{i}", "prompt": [prompt], "chosen": f"{right} and peace", "rejected": f"no {wrong}"}
        )
    for kind, rows in (("conversations", chats), ("pairs", pairs)):
        (root / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        out = root / {"conversations": "chats", "pairs": "pairs"}[kind]
        _stage(out, collect, Collect(kind=kind, source=str(root / f"{kind}.jsonl"), heldout_frac=0.3))

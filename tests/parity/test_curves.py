"""The quickstart's pretraining in quick mode: one curve whatever the backend and the number of ranks.

At full size, on the State of the Union: `python -m tests.parity.curves runs/quickstart/shards`.
"""

from pathlib import Path

import pytest

from llmkit import manifest
from llmkit.data import collect, shard
from llmkit.tokenizer import train
from tests import ranks
from tests.parity import curves

CODE = Path(collect.__file__).parents[1]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Token shards of llmkit's own source text."""
    root = tmp_path_factory.mktemp("shards")
    texts = root / "texts"
    texts.mkdir()
    for number, file in enumerate(sorted(CODE.rglob("*.py"))):
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


@pytest.mark.slow
def test_twenty_steps_agree_on_all_backends_and_ranks(shards):
    recipe = curves.recipe(shards, True, **curves.PARITY)
    backends = list(curves.BACKENDS)
    by_world = [ranks.run(curves.curves, world, recipe, backends, timeout_s=300)[0] for world in (1, 2)]
    first = by_world[0]["ddp"]
    assert first[-1] < first[0]
    for found in by_world:
        for backend, losses in found.items():
            assert losses == pytest.approx(first, rel=1e-5), backend


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_at_the_recipes_own_learning_rate_single_steps_from_equal_states_agree(shards, tmp_path, world):
    own = curves.recipe(shards, True)
    backends = list(curves.BACKENDS)
    found = ranks.run(curves.single_steps, world, own, backends, str(tmp_path), timeout_s=300)[0]
    for backend, off in found.items():
        assert all(value <= 1e-6 for value in off.values()), (backend, off)

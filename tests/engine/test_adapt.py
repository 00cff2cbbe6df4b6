"""Runs with an adapter: what they save, how they go on, which base they belong to, and who can open them."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from llmkit import adapted
from llmkit.checkpoint import fragments
from llmkit.errors import CheckpointError
from llmkit.models import lora
from llmkit.models.adapter import Adapter, canonical
from llmkit.opened import open_model
from tests import ranks
from tests.checkpoint import small

TOKENS = torch.randint(29, (2, 10), generator=torch.Generator().manual_seed(1))
ADAPTER = {"adapter__rank": 2, "adapter__kind": "dora", "run__steps": 6, "optim__lr": 0.1}


def resumed(folder: str, backends: list[str]) -> dict[str, bool]:
    """A base, DPO with an adapter on it, and its last steps again from a checkpoint -> equal ends."""
    base, out = f"{folder}/base", {}
    small.train(base, "causal", {"run__steps": 2, "optim__lr": 0.1})
    for backend in backends:
        straight, again = (Path(folder) / f"{backend} {name}" for name in ("straight", "again"))
        settings = {**ADAPTER, "init": base, "parallel__backend": backend}
        small.train(str(straight), "dpo", settings)
        if ranks.os.environ["RANK"] == "0":
            middle = "checkpoints/step_00000004"
            shutil.copytree(straight / middle, again / middle)
            shutil.copy(straight / "recipe.yaml", again)
        small.train(str(again), "dpo", settings)
        out[backend] = small.digest(small.newest(straight)) == small.digest(small.newest(again))
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A base and runs with an adapter on it, on two ranks."""
    folder = tmp_path_factory.mktemp("runs")
    equal = ranks.run(resumed, 2, str(folder), ["ddp", "zero2", "zero3"], timeout_s=300)[0]
    assert equal == {"ddp": True, "zero2": True, "zero3": True}
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["ddp", "zero2", "zero3"])
def test_a_checkpoint_holds_the_adapter_and_its_moments_and_no_weight_of_the_base(runs, backend):
    path = small.newest(runs / f"{backend} straight")
    reader = fragments.Reader(path)
    names = reader.names("model")
    assert names
    assert all(".lora_" in name and "default" not in name for name in names)
    assert reader.kinds("model") == ["exp_avg", "exp_avg_sq"]
    noted = json.loads((path / "lineage.json").read_text())["bases"]["model"]
    assert adapted.find(noted, path.parent.parent) == small.newest(runs / "base")


@pytest.mark.slow
@torch.no_grad()
def test_it_opens_as_the_sum_of_base_and_adapter(runs):
    path = small.newest(runs / "zero2 straight")
    opened, base = open_model(path), open_model(runs / "base")
    net = lora.inject(base.net, Adapter.model_validate(opened.recipe["adapter"]))
    parts = fragments.Reader(path).whole("model")
    for name, p in net.named_parameters():
        if name not in net.borrowed:
            p.copy_(parts.pop(canonical(name)))
    assert not parts
    net.double(), opened.net.double()
    both, alone, bare = (n.hidden(TOKENS) for n in (net, opened.net, lora.Bare(net)))
    assert (both - alone).abs().max() < 1e-6  # the sum was rounded to fp32
    assert (both - bare).abs().max() > 1e-2


@pytest.mark.slow
def test_a_run_goes_on_from_an_adapter_as_from_any_checkpoint(runs, tmp_path):
    """A reward model with an adapter on (base with an adapter): the trunk is their sum, the head stays."""
    first, second = str(runs / "ddp straight"), str(tmp_path / "reward")
    settings = {"init": first, "adapter__rank": 3, "objective__name": "reward", "run__steps": 2}
    ranks.run(small.train, 1, second, "dpo", settings)
    names = fragments.Reader(small.newest(second)).names("model")
    assert "model/score.weight" in names
    net, trunk = open_model(second, head="score").net, open_model(first).net
    stored = fragments.Reader(small.newest(second)).tensor("model/score.weight")
    assert torch.equal(net.score.weight, stored)
    off = [(a - b).abs().max() for a, b in zip(net.trunk.parameters(), trunk.parameters(), strict=True)]
    assert 0 < max(off) < 0.05  # the first adapter has moved weights by far more
    assert min(off) == 0


@pytest.mark.slow
def test_another_base_is_refused_by_its_fingerprint(runs, tmp_path):
    """Changed in place, or gone: neither a resumed run nor whoever opens it takes another one for it."""
    for name in ("base", "ddp straight"):
        shutil.copytree(runs / name, tmp_path / name)
    tuned = tmp_path / "ddp straight"
    shutil.rmtree(small.newest(tuned))
    path = small.newest(tuned)
    noted = json.loads((path / "lineage.json").read_text())["bases"]["model"]
    moved = {**noted, "path": "/nowhere"}
    assert adapted.find(moved, tuned).resolve() == small.newest(tmp_path / "base")  # moved along with the run
    ranks.run(small.train, 1, str(tmp_path / "base"), "causal", {"run__steps": 3, "optim__lr": 0.1})
    shutil.rmtree(tmp_path / "base/checkpoints" / Path(noted["path"]).name)
    lines = ranks.spawn(small.train, 1, str(tuned), "dpo", {**ADAPTER, "init": str(tmp_path / "base")})
    assert lines[0].code == 2  # `init` is part of the recipe
    recipe = (tuned / "recipe.yaml").read_text().replace(str(runs / "base"), str(tmp_path / "base"))
    (tuned / "recipe.yaml").write_text(recipe)
    (ended,) = ranks.spawn(small.train, 1, str(tuned), "dpo", {**ADAPTER, "init": str(tmp_path / "base")})
    assert ended.code == 4
    assert "the adapter in" in ended.text
    assert "was trained on" in ended.text
    with pytest.raises(CheckpointError, match="is gone; bring back the base"):
        adapted.find({**moved, "from_run": "../nothing"}, tuned)

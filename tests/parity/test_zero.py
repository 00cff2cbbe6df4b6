"""ZeRO's own promises: every setting stated, nets split while they are built, whole nets lent, silence."""

import pytest

from llmkit.engine import zero_config
from llmkit.engine.recipe import Optim, Parallel
from llmkit.errors import ConfigError
from tests import ranks
from tests.parity import zero_scenes

deepspeed_config = pytest.importorskip("deepspeed.runtime.zero.config", reason="DeepSpeed is for Linux")
SCHEMA = deepspeed_config.DeepSpeedZeroConfig.model_fields


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("offload", ["none", "optimizer", "params"])
def test_no_setting_of_zero_is_left_to_a_default(stage, offload):
    section = zero_config.zero(stage, offload, 100)
    assert zero_config.lint(section, SCHEMA) == []
    assert deepspeed_config.DeepSpeedZeroConfig(**section).stage == stage


def test_a_setting_that_a_release_adds_or_drops_is_named():
    section = zero_config.zero(2, "none", 100)
    del section["overlap_comm"]
    assert zero_config.lint(section | {"made_up": 1}, SCHEMA) == ["made_up", "overlap_comm"]


def test_the_config_scales_nothing_and_divides_by_nothing():
    config = zero_config.render(2, Parallel(precision="bf16"), Optim(clip=0.5), numel=1001)
    assert config["managed_gradient_accumulation"] is False
    assert config["gradient_clipping"] == 0.5
    assert config["torch_autocast"]["enabled"]
    assert not config["bf16"]["enabled"]
    assert config["zero_optimization"]["reduce_bucket_size"] == 1002


@pytest.mark.slow
def test_at_stage_3_no_rank_ever_holds_more_than_one_whole_parameter():
    for found in ranks.run(zero_scenes.built, 2):
        assert found["held_at_most"] <= found["largest"] < found["whole"]
        assert found["kept"] <= found["whole"] // 2 + 40  # each parameter's half, rounded up


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["zero2", "zero3"])
def test_a_whole_net_is_lent_and_training_goes_on_as_if_it_had_not_been(backend):
    lent, plain = ranks.run(zero_scenes.lent, 2, backend), ranks.run(zero_scenes.lent, 2, "ddp")
    for here, there in zip(lent, plain, strict=True):
        assert here["sizes"] == there["sizes"]
        assert here["logits"] == pytest.approx(there["logits"], rel=1e-4, abs=1e-6)
        assert here["norms"] == pytest.approx(there["norms"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("scene", [zero_scenes.quiet, zero_scenes.without_a_compiler])
def test_deepspeed_prints_nothing_and_needs_no_compiler(scene):
    for rank in ranks.spawn(scene, 2):
        assert rank.code == 0, rank.text[-2000:]
        assert rank.text == ""


def test_another_release_of_deepspeed_is_refused(monkeypatch):
    import deepspeed
    import torch

    from llmkit.engine import backend_zero

    monkeypatch.setattr(deepspeed, "__version__", "0.20.0")
    with pytest.raises(ConfigError, match=r"ZeRO needs deepspeed==0\.19\.\*, this is 0\.20\.0"):
        backend_zero._deepspeed(torch.device("cpu"))

"""The planner counts what a run holds: fake tensors as real ones, and takes layouts that fit the device."""

import pytest
import torch

from llmkit import registry
from llmkit.engine import plan
from llmkit.engine.live import Live
from llmkit.engine.recipe import TrainRecipe
from llmkit.errors import ConfigError
from llmkit.models.adapter import Adapter
from llmkit.models.blocks import initialise
from llmkit.models.heads import build
from tests.parity.problems import pairs, rated
from tests.vision import small

DATA = {"name": "pairs", "data": "nowhere", "tokenizer": "nowhere", "seq_len": 64}
SHAPE = {"width": 64, "layers": 3, "heads": 4, "context": 64, "vocab_size": 500}


def recipe(model=None, **sections):
    tree = {
        "run": {"steps": 10}, "model": {"name": "decoder", **SHAPE, **(model or {})},
        "objective": {"name": "causal"}, "data": {"name": "tokens", "shards": "nowhere", "seq_len": 64},
        "batch": {"rows": 16},
    }  # fmt: skip
    return TrainRecipe.model_validate(tree | sections)


ENCODER = {"name": "encoder", "style": "bert", **SHAPE}
ENCDEC = {"name": "encdec", "style": "t5", **SHAPE}
DOCUMENTS = {"name": "documents", "shards": "nowhere"}
MASKED = {"objective": {"name": "masked"}, "data": DOCUMENTS | {"seq_len": 64, "noise": {"name": "masked"}}}
SPANS = {"objective": {"name": "denoise"}, "data": DOCUMENTS | {"seq_len": 32, "noise": {"name": "span"}}}


@pytest.mark.parametrize(
    ("model", "sections"),
    [
        ({"recompute": "none"}, {}),
        ({"recompute": "selective"}, {}),
        ({"recompute": "full"}, {}),
        ({"experts": 4, "experts_per_token": 2}, {}),
        (ENCODER, MASKED),
        (ENCODER | {"style": "modernbert"}, MASKED),
        (ENCDEC, SPANS),
        (ENCDEC | {"style": "bart"}, SPANS),
    ],
)
def test_a_trace_of_fake_tensors_counts_the_bytes_of_real_ones(model, sections):
    made = recipe(model, **sections)
    batch = plan.rows(made, None, 3)
    objective = registry.find("objective", made.objective.name)(made.objective)
    net = initialise(build(made.model), 1)
    live = Live([*net.parameters(), *batch.values()])
    base, (phase,) = live.now, objective.phases
    peaks = []
    with live:
        for _ in range(2):
            live.peak = live.now
            total = {key: torch.ones(()) for key in objective.count(phase, batch)}
            share, seen = objective.loss(phase, {"model": net}, batch, total)
            share.backward()
            del share, seen
            peaks.append(live.peak - base)
    traced = plan.trace(made, batch, bf16=False)
    (found,) = traced.nets
    assert [found.first, found.later] == pytest.approx(peaks, rel=2e-3)
    assert found.numel * 4 == found.weights == sum(p.numel() * 4 for p in net.parameters())
    assert found.moments == 2 * found.weights
    assert found.bare <= found.first <= found.later


@pytest.mark.parametrize(
    ("settings", "dataset", "twice"),
    [
        ({"name": "dpo"}, pairs, True),
        ({"name": "dpo", "reference": "cached"}, pairs, False),
        ({"name": "orpo"}, pairs, False),
        ({"name": "kto"}, rated, True),
    ],
)
def test_preferences_are_planned_with_their_reference_or_without(settings, dataset, twice):
    made = recipe({"vocab_size": 29}, objective=settings, data=DATA)
    traced = plan.trace(made, dataset(0, 0, 0), bf16=False)
    (policy,) = traced.nets
    assert policy.weights == policy.numel * 4
    assert traced.frozen == (policy.weights if twice else 0)
    assert policy.first > 0


@pytest.mark.parametrize("kind", [kind for kind in small.MODELS if kind != "vq_prior"])
def test_nets_of_images_are_planned_too(kind, tmp_path):
    """A prior of codes is one of a trained net, which a recipe alone is not."""
    made = small.recipe(str(small.archive(tmp_path)), "nowhere", kind)
    made, data = plan.complete(made)
    parts, _ = plan.predict(made, data, plan.Layout("ddp", 1, 4, 2), bf16=False)
    averages = parts["optimizer"] - 2 * parts["weights"]
    assert (0 < averages < parts["weights"]) if kind in small.GANS else averages == 0  # of the generator
    assert parts["activations"] > 0


def test_stages_divide_what_they_cut():
    traced = plan.trace(recipe(), plan.rows(recipe(), None, 1), bf16=False)
    parts = {name: plan.memory(traced, plan.Layout(name, 4, 1, 1)) for name in ("ddp", "zero1", "zero3")}
    n = traced.nets[0].weights
    assert parts["ddp"]["weights"] == parts["zero1"]["weights"] == 4 * parts["zero3"]["weights"] == n
    assert parts["ddp"]["optimizer"] == 2 * n
    assert parts["zero1"]["optimizer"] == 3 * n // 4
    for found in parts.values():
        assert found["total"] == sum(v for k, v in found.items() if k not in ("total", "host"))
        assert found["host"] == 0


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
def test_offload_moves_masters_and_moments_to_the_host_and_parameters_at_stage_3(weights):
    made = recipe(parallel={"weights": weights})
    traced = plan.trace(made, plan.rows(made, None, 1), bf16=False)
    (net,) = traced.nets
    n, whole = 4 * net.numel, net.weights
    assert whole == n if weights == "fp32" else whole == n // 2
    for stage in ("zero1", "zero2", "zero3"):
        kept = plan.memory(traced, plan.Layout(stage, 4, 1, 1))
        moved = plan.memory(traced, plan.Layout(stage, 4, 1, 1, offload="optimizer"))
        if (stage, weights) != ("zero1", "bf16"):  # DeepSpeed has another optimiser for it, without a bucket
            assert moved["total"] < kept["total"]
        assert moved["optimizer"] == 0 == kept["host"]
        assert moved["host"] >= (n + net.moments) / 4
    params = plan.memory(traced, plan.Layout("zero3", 4, 1, 1, offload="params"))
    assert params["weights"] == 0
    assert params["host"] - moved["host"] == moved["weights"] == pytest.approx(whole / 4, abs=1)


def test_a_plan_with_offload_or_bf16_weights_takes_a_stage_that_knows_them():
    for parallel, stage in (({"offload": "params"}, "zero3"), ({"weights": "bf16"}, "zero1")):
        found = plan.plan(recipe(parallel=parallel), "h200", 2, 0.4, 0.0)["set"]
        assert found["parallel.backend"] == stage
        assert parallel.items() <= {key.removeprefix("parallel."): v for key, v in found.items()}.items()
    alone = plan.plan(recipe(parallel={"backend": "ddp", "weights": "bf16"}), "h200", 2, 0.4, 0.0)
    assert "parallel.weights" not in alone["set"]  # ddp has fp32 weights


def test_a_table_shows_small_numbers_in_small_units():
    shown = plan.table(plan.plan(recipe(), "h200", 1, 0.4, 0.0))
    assert "MiB" in shown
    assert " ms a step" in shown
    assert "launching kernels" in shown
    assert " 0.00 " not in shown


def test_a_plan_keeps_the_batch_and_takes_what_fits(monkeypatch):
    roomy = plan.plan(recipe(), "h200", 2, 0.4, 2.0)
    assert roomy["fits"]
    assert roomy["set"] == {"parallel.backend": "ddp", "batch.micro_rows": 8, "model.recompute": "none"}
    assert roomy["cost"] == pytest.approx(roomy["device_hours"] * 2)
    tight = roomy["memory_bytes"]["total"] * 0.6
    monkeypatch.setitem(plan.DEVICES, "small", ("NVIDIA L4", tight))
    small = plan.plan(recipe(), "small", 2, 0.4, 0.0)
    assert small["fits"]
    assert small["memory_bytes"]["total"] <= plan.FILL * tight
    assert small["set"] != roomy["set"]
    assert small["cost"] is None


@pytest.mark.parametrize(
    ("parallel", "products"),
    [
        ({}, "bf16"),
        ({"tf32": True}, "bf16"),
        ({"precision": "fp32"}, "fp32"),
        ({"precision": "fp32", "tf32": True}, "tf32"),
        ({"precision": "fp32", "weights": "bf16", "backend": "zero2"}, "bf16"),
    ],
)
def test_the_time_of_a_plan_is_that_of_the_products_precision(parallel, products):
    found = plan.plan(recipe(parallel=parallel), "a100", 1, 0.5, 0.0)
    rate = {"bf16": 312e12, "tf32": 156e12, "fp32": 19.5e12}[products]
    assert found["step_s"] == pytest.approx(found["step_flops"] / (0.5 * rate))
    assert f"peak {products} rate" in plan.table(found)


@pytest.mark.parametrize(
    ("sections", "device", "line"),
    [
        ({"model": {"vocab_size": None}}, "h200", "model.vocab_size: is the tokenizer's"),
        ({}, "h900", "--device h900: is one of h200"),
        (
            {"objective": {"name": "kto"}, "data": DATA | {"name": "pairs"}},
            "h200",
            "rows for kto cannot be made up",
        ),
    ],
)
def test_what_cannot_be_planned_is_said(sections, device, line):
    with pytest.raises(ConfigError, match=line):
        plan.plan(recipe(**sections), device, 1, 0.4, 0.0)


def test_an_adapter_keeps_moments_and_gradients_of_itself_alone_and_needs_no_second_net():
    """DPO with and without one: what learns is counted by hand; the reference costs nothing with it."""
    made = recipe({}, objective={"name": "dpo"}, data=DATA)
    adapted = made.model_copy(update={"adapter": Adapter(rank=4, targets="attention"), "init": "somewhere"})
    batch = pairs(0, 0, 0)
    full, light = (plan.trace(each, batch, bf16=False) for each in (made, adapted))
    (small,) = light.nets
    assert small.numel == 3 * 4 * 4 * (64 + 64)  # layers x matrices x rank x (in + out)
    assert small.moments == 2 * 4 * small.numel
    assert small.borrowed == full.nets[0].weights == full.frozen
    assert light.frozen == 0  # there is no reference beside it
    assert small.weights == small.borrowed + 4 * small.numel
    split = plan.memory(light, plan.Layout("zero3", 4, 2, 1))
    assert split["weights"] == small.weights // 4
    with pytest.raises(ConfigError, match="in its place, and nowhere is not there"):
        plan.complete(made.model_copy(update={"model": None, "init": "nowhere"}))

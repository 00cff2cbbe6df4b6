"""Settings that would mean nothing to a run end it or are said; counts go on where they were."""

from types import SimpleNamespace

import numpy as np
import pytest

from llmkit import registry
from llmkit.engine import run
from llmkit.engine.profile import Profile
from llmkit.engine.stop import Stop
from llmkit.errors import ConfigError
from llmkit.models.adapter import Adapter
from tests import ranks
from tests.checkpoint import small
from tests.vision import small as vision


@pytest.fixture
def data(tmp_path) -> str:
    return str(vision.archive(tmp_path))


def test_optimiser_settings_of_a_net_that_is_not_trained_are_refused(tmp_path):
    settings = {"optim__nets": {"critic": {"lr": 1e-4}}}
    with pytest.raises(ConfigError, match=r"optim\.nets\.critic: toygan trains no such net; it trains d, g"):
        run.train(small.recipe(str(tmp_path / "run"), "toygan", **settings), "cpu")
    with pytest.raises(ConfigError, match=r"optim\.nets\.reference: dpo trains no such net; it trains model"):
        run.train(small.recipe(str(tmp_path / "run"), "dpo", optim__nets={"reference": {"lr": 1.0}}), "cpu")


def test_a_best_checkpoint_is_refused_where_no_figure_says_which_that_is(tmp_path, data):
    with pytest.raises(ConfigError, match=r"run\.best: no held-out figure of gan says which"):
        run.train(vision.recipe(data, str(tmp_path / "run"), "gan", run__best=True), "cpu")
    out = tmp_path / "vae"
    run.train(vision.recipe(data, str(out), "vae", run__best=True, run__steps=2), "cpu")
    assert (out / "best.json").exists()


def test_compiling_is_refused_where_nothing_can_be_compiled(tmp_path, data):
    asked = {"parallel__compile": "on"}
    with pytest.raises(ConfigError, match=r"parallel\.compile: on, but nothing in Vae can be compiled"):
        run.train(vision.recipe(data, str(tmp_path / "run"), "vae", **asked), "cpu")


def test_dropout_that_a_preference_loss_does_without_is_said(tmp_path, capsys):
    run.train(small.recipe(str(tmp_path / "run"), "dpo", run__steps=1, model__dropout=0.1), "cpu")
    assert "warning: model.dropout: dpo trains without; it is 0 in this run" in capsys.readouterr().err


def test_an_adapters_dropout_is_none_where_its_net_has_none(tmp_path, capsys):
    """Noise in the policy alone would stand in its difference to the reference."""
    base, out = str(tmp_path / "base"), str(tmp_path / "run")
    run.train(small.recipe(base, "causal", run__steps=1), "cpu")
    ends = []
    for dropout in (0.0, 0.5):
        adapter = Adapter(rank=2, dropout=dropout).model_dump()
        settings = {"init": base, "adapter": adapter, "run__steps": 3, "optim__lr": 0.1}
        run.train(small.recipe(f"{out}{dropout}", "dpo", **settings), "cpu")
        ends.append(small.digest(small.newest(f"{out}{dropout}")))
    assert ends[0] == ends[1]
    assert "adapter.dropout: dpo trains without" in capsys.readouterr().err


def test_skipped_steps_are_counted_over_the_whole_run(tmp_path):
    settings = {"data__poison": {5: "nan"}, "run__steps": 4}
    run.train(small.recipe(str(tmp_path), **settings), "cpu")
    assert small.lines(tmp_path)[-1]["skipped"] == 1
    run.train(small.recipe(str(tmp_path), **{**settings, "run__steps": 6}), "cpu")
    assert [line["skipped"] for line in small.lines(tmp_path)][-2:] == [1, 1]


def test_a_run_that_stops_without_a_checkpoint_says_where_it_goes_on():
    stop = Stop(None)
    try:
        assert stop.told(7, 9, "SIGTERM", "", "x").endswith("continues from there")
        told = stop.told(7, 9, "SIGTERM", "stop.kl: KL of 3", "step_00000004")
        assert told.endswith(
            "continues from step_00000004, since nothing is saved while objective.stop.kl: KL of 3"
        )
    finally:
        stop.close()


def test_a_profile_of_steps_that_do_not_come_is_said(tmp_path, capsys):
    profile = Profile("50:52", tmp_path)
    for step in range(3):
        profile.begin(step)
    profile.close()
    assert "run.profile: no step of 50:52 began here; nothing was profiled" in capsys.readouterr().err


def test_a_decay_that_begins_before_the_warm_up_is_over_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"schedule: decay_frac: 0\.6 begins before the warm-up of 0\.5"):
        small.recipe(str(tmp_path), schedule={"name": "wsd", "warmup_frac": 0.5, "decay_frac": 0.6})


def test_settings_that_nothing_reads_are_named(tmp_path, data, capsys):
    asked = {"model__sigma": 0.5, "schedule__decay_frac": 0.1, "data__fit": "pad", "run__steps": 1}
    run.train(vision.recipe(data, str(tmp_path / "run"), "vae", **asked), "cpu")
    said = capsys.readouterr().err
    for line in (
        "model.sigma: is read with likelihood=gaussian alone; it has no effect here",
        "schedule.decay_frac: is read with name=wsd alone; it has no effect here",
        "data.fit: is read with size alone; it has no effect here",
    ):
        assert f"warning: {line}" in said
    run.train(vision.recipe(data, str(tmp_path / "vq"), "vq", objective__decay=0.9, run__steps=1), "cpu")
    said = capsys.readouterr().err
    assert said == (
        "warning: objective.decay: is read with model.codebooks=average alone; it has no effect here\n"
    )


@pytest.mark.parametrize("kind", ["model", "objective", "dataset"])
def test_what_decides_if_a_setting_is_read_is_a_setting_with_such_values(kind):
    """`only_with` is written by hand: its names and values are those of fields."""
    models = [registry.find("model", name).Settings for name in registry.names("model")]
    for name in registry.names(kind):
        section = registry.find(kind, name).Settings
        for key, (other, *values) in section.only_with.items():
            assert key in section.model_fields
            holders = models if other.startswith("model.") else [section]
            fields = [
                m.model_fields[f] for m in holders if (f := other.removeprefix("model.")) in m.model_fields
            ]
            assert fields
            assert all(value in str(field.annotation) for field in fields for value in values)


def test_a_token_budget_needs_rows_of_a_known_length(tmp_path, data):
    with pytest.raises(
        ConfigError, match=r"run\.tokens: rows of images are of no known length; set run\.steps"
    ):
        run.train(vision.recipe(data, str(tmp_path / "run"), "vae", run__steps=None, run__tokens=99), "cpu")


def test_tokens_are_counted_alike_with_accumulation_on_two_ranks_and_after_a_resume(tmp_path):
    ends = {}
    for name, stops, micro in (("whole", (4,), 4), ("accumulated", (4,), 1), ("resumed", (1, 4), 2)):
        for steps in stops:
            settings = {"run__steps": steps, "batch__micro_rows": micro}
            run.train(small.recipe(str(tmp_path / name), "causal", **settings), "cpu")
        ends[name] = [line["tokens"] for line in small.lines(tmp_path / name)]
    ranks.run(small.train, 2, str(tmp_path / "ranks"), "causal", {"run__steps": 4})
    ends["ranks"] = [line["tokens"] for line in small.lines(tmp_path / "ranks")]
    assert len(set(map(tuple, ends.values()))) == 1
    assert len(set(ends["whole"])) == 4


def test_a_net_that_reads_the_weights_of_another_is_refused_and_other_changes_are_said(tmp_path, capsys):
    """Four heads and two have the same tensors; a net without biases would leave some of them out."""
    base = str(tmp_path / "base")
    run.train(small.recipe(base, "causal", run__steps=1, model__bias=True), "cpu")
    for key, value in (("heads", 4), ("bias", False)):
        asked = {"init": base, "run__steps": 1, "model__bias": True, f"model__{key}": value}
        with pytest.raises(
            ConfigError, match=rf"model\.{key}: {value}, but .* whose weights mean nothing so"
        ):
            run.train(small.recipe(str(tmp_path / key), "causal", **asked), "cpu")
    asked = {"init": base, "run__steps": 1, "model__bias": True, "model__rope_theta": 5e5}
    run.train(small.recipe(str(tmp_path / "wide"), "causal", **asked, model__dropout=0.1), "cpu")
    said = capsys.readouterr().out
    assert "model.rope_theta: 500000.0, but 10000.0 in " in said
    assert "model.dropout" not in said


@pytest.mark.parametrize(("name", "start"), [("encdec", None), ("decoder", "pad"), ("encoder", "pad")])
def test_rows_of_two_sides_are_an_encoder_decoders(tmp_path, name, start):
    recipe = small.recipe(str(tmp_path), "causal", model={"name": name, "width": 16, "heads": 2})
    sides = "two sides" if start else "one side"
    with pytest.raises(ConfigError, match=f"data: rows have {sides}, and a model that is"):
        run.resolved(recipe, SimpleNamespace(vocab_size=29, start=start))


def test_images_seen_a_second_are_those_of_all_draws(tmp_path, data):
    """Two critic updates a step take 8 rows each."""
    out = tmp_path / "run"
    run.train(vision.recipe(data, str(out), "gan", run__steps=2), "cpu")
    seen = [line["images_per_s"] * line["step_s"] for line in small.lines(out)]
    assert np.allclose(seen, 16)

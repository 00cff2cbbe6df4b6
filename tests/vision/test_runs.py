"""Whole runs: killed between two phases they go on bit for bit; any ranks see the same images and noise."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from llmkit.objectives.vision import collapse
from llmkit.objectives.vision.gan import GanObjective
from llmkit.objectives.watch import heed
from llmkit.report import page as report
from llmkit.vision import noise
from tests import ranks
from tests.vision import small

KINDS = [
    "stylegan",
    "vae",
    "vaegan",
    "vq",
    "vq_average",
    "pixel",
    "pixelcnnpp",
    "stylegan3",
    "gan",
    "dcgan",
    "sngan",
    "captioner",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return str(small.archive(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory) -> str:
    """Every kind, run from beginning to end on one rank."""
    out = str(tmp_path_factory.mktemp("straight"))
    ranks.run(small.every, 1, data, out, KINDS, {})
    return out


KILLS = [
    ("stylegan", 2),
    ("stylegan", 3),
    ("vae", 0),
    ("vaegan", 1),
    ("vq", 0),
    ("vq_average", 0),
    ("pixel", 0),
    ("pixelcnnpp", 0),
    ("stylegan3", 1),
    ("gan", 1),
    ("dcgan", 1),
    ("dcgan", 2),
    ("sngan", 1),
    ("captioner", 0),
]
"""Kinds of runs, and before which of their phases they are killed."""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "phase"), KILLS)
def test_a_run_killed_between_two_phases_goes_on_bit_for_bit(kind, phase, data, straight, tmp_path):
    out = str(tmp_path / "killed")
    fault = {"LLMKIT_FAULT": f"phase{phase}@4:0"}
    (ended,) = ranks.spawn(small.train, 1, data, out, kind, env=fault)
    assert ended.code == -9
    assert small.newest(out).name == "step_00000004"
    ranks.run(small.train, 1, data, out, kind)
    assert small.digest(small.newest(out)) == small.digest(small.newest(f"{straight}/{kind}"))


def apart(a: str, b: str) -> float:
    """The largest difference between the weights, averages and buffers of two runs."""
    kinds = ("param", "ema", "buffer")
    pairs = [(small.tensors(a, kind), small.tensors(b, kind)) for kind in kinds]
    return max(float((x[n] - y[n]).abs().max()) for x, y in pairs for n in x)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["ddp", "zero1", "zero2"])
def test_two_ranks_see_the_images_and_noise_of_one(backend, data, straight, tmp_path):
    kinds, out = ["vae", "gan", "vq_average", "captioner"], str(tmp_path)
    ranks.run(small.every, 2, data, out, kinds, {"parallel__backend": backend})
    for kind in kinds:
        assert apart(f"{out}/{kind}", f"{straight}/{kind}") < 1e-6


def other_noise(data: str, out: str) -> None:
    """A run on a noise that depends on the rank, as a generator per rank would."""
    import os

    honest = noise.bits
    noise.bits = lambda key, purpose, shape: honest(key + int(os.environ["RANK"]), purpose, shape)
    small.train(data, out, "gan")


@pytest.mark.slow
def test_noise_that_depends_on_the_rank_is_noticed(data, straight, tmp_path):
    ranks.run(other_noise, 2, data, str(tmp_path / "gan"))
    assert apart(str(tmp_path / "gan"), f"{straight}/gan") > 1e-4


def test_a_run_leaves_grids_and_says_when_batch_statistics_are_in_it(data, tmp_path):
    (ended,) = ranks.spawn(small.train, 1, data, str(tmp_path), "dcgan", {"run__eval_every": 3})
    assert ended.code == 0, ended.text
    assert "which rows share a micro-batch" in ended.text
    assert [file.name for file in sorted((tmp_path / "samples").iterdir())] == [
        "film_samples.gif",
        "step_00000003_interpolations.png",
        "step_00000003_samples.png",
        "step_00000006_interpolations.png",
        "step_00000006_samples.png",
    ]
    page = report.write(tmp_path).read_text()
    assert page.count("data:image/gif;base64") == 1
    assert page.count("data:image/png;base64") == 2  # the newest of each kind
    shown = EventAccumulator(str(tmp_path / "tb"), size_guidance={"images": 0}).Reload()
    assert sorted(shown.Tags()["images"]) == ["film_samples", "interpolations", "samples"]
    assert [event.step for event in shown.Images("samples")] == [3, 6]
    film = (tmp_path / "samples" / "film_samples.gif").read_bytes()
    assert shown.Images("film_samples")[0].encoded_image_string == film


STOP = {"objective__r1": 0.0, "optim__nets__d__lr": 0.05, "run__save_every": 1, "run__steps": 30}
LIMIT = {"objective__stop__accuracy": 0.9, "objective__stop__patience": 4}


def saving_anyway(data: str, out: str, kind: str, overrides: dict) -> None:
    """A run without the safeguard: it saves while a rule is broken."""
    honest = GanObjective.after

    def after(self, phase, seen, applied):
        honest(self, phase, seen, applied)
        self.warning = ""

    GanObjective.after = after
    small.train(data, out, kind, overrides)


@pytest.mark.slow
@pytest.mark.parametrize("train", [small.train, saving_anyway])
def test_a_gan_that_falls_apart_ends_and_goes_back_to_before_it_did(train, data, tmp_path):
    (ended,) = ranks.spawn(train, 1, data, str(tmp_path), "dcgan", STOP | LIMIT)
    assert ended.code == 5, ended.text
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    broken = [line["d/accuracy"] > 0.9 for line in lines]
    assert broken[-4:] == [True] * 4
    assert not all(broken[-5:-4])
    newest = lines[-4]["step"] - 1
    good = not small.newest(tmp_path) if newest == 0 else small.newest(tmp_path).name == f"step_{newest:08d}"
    assert good == (train is small.train)
    assert "objective.stop.accuracy: d tells" in ended.text


def test_classes_that_are_lost_and_long_gradients_are_noticed():
    rules = collapse.StopRules(modes=3, grad_norm=2.0)
    state: dict[str, float] = {}
    seen = [heed(collapse.of_evaluation(rules, modes, state), 2, state) for modes in (2, 4, 1, 3, 2, 2)]
    assert [bool(warning) for warning, _ in seen] == [False, False, True, False, True, True]
    assert [bool(verdict) for _, verdict in seen] == [False] * 5 + [True]
    assert collapse.of_update(rules, "g", {}, 2.5)["grad_norm_g"] == "it is 2.5 in phase g"
    assert collapse.of_update(rules, "g", {}, 1.5)["grad_norm_g"] == ""


def test_stop_rules_that_could_not_be_heeded_are_refused():
    for settings, line in (
        ({"loss": "wasserstein", "stop": {"accuracy": 0.9}}, "scores of this loss have no zero"),
        ({"stop": {"modes": 3}}, "needs an extractor to tell classes by"),
    ):
        with pytest.raises(ValueError, match=line):
            GanObjective.Settings(**settings)


def test_labels_that_the_model_has_no_class_for_are_refused(data, tmp_path):
    (ended,) = ranks.spawn(small.train, 1, data, str(tmp_path), "gan", {"model__classes": 3})
    assert ended.code == 2
    assert "model.classes: 3, but the images' labels go from 0 to 3; leave it out" in ended.text


def test_penalties_refuse_zero3(data, tmp_path):
    settings = {"parallel__backend": "zero3"}
    (ended,) = ranks.spawn(small.train, 1, data, str(tmp_path), "gan", settings)
    assert "ConfigError: parallel.backend: zero3 cannot differentiate twice, as phase d does" in ended.text


def compared(data: str, out: str) -> dict[str, dict]:
    """A recogniser, then a GAN and a VAE that are compared in its features -> their last lines."""
    small.train(data, f"{out}/recogniser", "recogniser")
    lines = {}
    for kind in ("gan", "vae"):
        asked = {"objective__distance": {"extractor": f"{out}/recogniser"}, "run__eval_every": 3}
        asked |= {"data__heldout_frac": 0.5, "run__eval_rows": 20}
        small.train(data, f"{out}/{kind}", kind, asked)
        lines[kind] = json.loads(Path(f"{out}/{kind}/metrics.jsonl").read_text().splitlines()[-1])
    return lines


@pytest.mark.slow
def test_distances_during_training_are_the_same_on_any_number_of_ranks(data, tmp_path):
    (alone,) = ranks.run(compared, 1, data, str(tmp_path / "one"))
    two = ranks.run(compared, 2, data, str(tmp_path / "two"))
    for kind, line in alone.items():
        for name in ("frechet", "kid", "precision", "recall"):
            assert line[f"heldout/{name}"] == pytest.approx(
                two[0][kind][f"heldout/{name}"], rel=1e-4, abs=1e-6
            )
    assert "heldout/class_hits" in alone["gan"]
    assert "heldout/class_hits" not in alone["vae"]

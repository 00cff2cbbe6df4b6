"""Every kind of model is exported and read back equal; what is no export, or a harmful one, is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmkit import registry, verbs
from llmkit.cli import main
from llmkit.errors import CheckpointError, ConfigError, ExportRefused, TrustError
from llmkit.models import heads
from llmkit.models.blocks import initialise
from llmkit.models.hf import images
from llmkit.opened import open_model
from tests import ranks
from tests.vision import small

SHAPE = {"size": 8, "channels": 1, "classes": 4}
CODEC = {"size": 8, "channels": 1, "width": 4, "layers": 1, "blocks": 1, "codes": 8, "code_dim": 2}
MODELS = {
    **small.MODELS,
    "vq_prior": {**small.MODELS["vq_prior"], "codec": {"name": "vq", "codebooks": "average", **CODEC}},
    "mlp_vae": {"name": "vae", "width": 8, "conditional": True},
    "mixture": {"name": "pixel", "width": 8, "layers": 1, "likelihood": "mixture", "channels": 3},
    "bernoulli_mixture": {"name": "bernoulli_mixture", "components": 3},
}


def made(kind: str):
    """A net of this kind with values; of a GAN, the generator."""
    stated = {**SHAPE, **MODELS[kind]}
    known = registry.find("model", stated["name"]).Settings
    settings = known.model_validate({key: stated[key] for key in stated if key in known.model_fields})
    with torch.device("meta"):
        net = heads.build(settings, next(iter(heads.parts(settings)), "lm"))
    return initialise(net, seed=3).eval()


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_is_read_back_equal(kind, tmp_path):
    net = made(kind)
    assert images.publish(net, tmp_path, torch.float32, 1 << 30)["max_abs_diff"] == 0
    again = open_model(tmp_path).net
    assert again.settings == net.settings
    assert torch.equal(images.shown(again), images.shown(net))
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


def test_rounded_weights_and_counters_of_batches_are_read_back_equal(tmp_path):
    assert images.publish(made("dcgan"), tmp_path, torch.bfloat16, 1 << 30)["max_abs_diff"] == 0
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["body.first.weight"].dtype is torch.bfloat16
    assert tensors["body.norms.0.num_batches_tracked"].dtype is torch.int64


def test_what_is_read_back_otherwise_is_refused(tmp_path, monkeypatch):
    honest = images.read

    def off(folder):
        net = honest(folder)
        next(net.parameters()).data.flatten()[0] += 1e-6
        return net

    monkeypatch.setattr(images, "read", off)
    with pytest.raises(ExportRefused, match=r"differs by 1\.\de-06"):
        images.publish(made("vae"), tmp_path, torch.float32, 1 << 30)


@pytest.mark.slow
def test_a_run_and_its_export_make_the_same_images(tmp_path):
    """With the averaged weights, as an extractor, and its licences in the card."""
    data = str(small.archive(tmp_path))
    ranks.run(small.every, 1, data, str(tmp_path), ["stylegan"], {"run__eval_rows": 4})
    run, out = str(tmp_path / "stylegan"), str(tmp_path / "hf")
    assert main(["export", run, out]) == 0
    for name, source in (("run.png", run), ("hf.png", out)):
        words = ["sample", source, "--out", str(tmp_path / name), "--count", "4", "--truncation", "0.7"]
        assert main(words) == 0
    assert (tmp_path / "run.png").read_bytes() == (tmp_path / "hf.png").read_bytes()
    assert "not stated" in (Path(out) / "README.md").read_text()
    assert json.loads((Path(out) / "config.json").read_text())["part"] == "g"
    with pytest.raises(CheckpointError, match="is a model of images, a language model is needed"):
        open_model(out, head="lm")


def edited(folder: Path, **changes) -> None:
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(facts | changes))


@pytest.mark.parametrize(
    ("changes", "error", "line"),
    [
        ({"settings": {"auto_map": {"AutoModel": "x.Y"}}}, TrustError, "asks to run code"),
        ({"settings": {"name": "vae", "width": 10**9}}, TrustError, "width is 1000000000; no model has that"),
        (
            {"model": "vq_prior", "settings": {"name": "vq_prior", "codec": {"name": "vq", "codes": 10**9}}},
            TrustError,
            "codes is 1000000000; no model has that",
        ),
        ({"settings": {"name": "vae", "wdth": 4}}, ConfigError, "settings: wdth"),
        ({"model": "os.system"}, ConfigError, "states no model that llmkit knows"),
        ({"settings": {**SHAPE, "name": "vae", "width": 5}}, CheckpointError, "tensors do not fit the model"),
    ],
)
def test_a_config_that_lies_is_refused(changes, error, line, tmp_path):
    images.publish(made("mlp_vae"), tmp_path, torch.float32, 1 << 30)
    edited(tmp_path, **changes)
    with pytest.raises(error, match=line):
        open_model(tmp_path)


def test_a_part_that_is_none_and_a_pickle_are_refused(tmp_path):
    images.publish(made("gan"), tmp_path, torch.float32, 1 << 30)
    edited(tmp_path, part="__init__")
    with pytest.raises(ConfigError, match="part: '__init__' is none of g, d"):
        open_model(tmp_path)
    edited(tmp_path, part="g")
    (tmp_path / "model.safetensors").rename(tmp_path / "model.bin")
    with pytest.raises(TrustError, match="safetensors only"):
        open_model(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="tensors do not fit"):
        open_model(tmp_path)


def test_settings_that_an_image_export_does_not_read_are_named(tmp_path, capsys):
    images.publish(made("vae"), tmp_path / "a", torch.float32, 1 << 30)
    verbs.perform("export", {}, {"ckpt": str(tmp_path / "a"), "out": str(tmp_path / "b"), "family": "llama"},
                  verbs.Options())  # fmt: skip
    assert "family: a model of images has none" in "".join(capsys.readouterr())

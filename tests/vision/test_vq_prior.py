"""A prior on codes: their exact likelihood, images of keys alone, and two stages that end in one model."""

import itertools
from pathlib import Path

import pytest
import torch

from llmkit.cli import main
from llmkit.errors import ConfigError
from llmkit.models.blocks import initialise
from llmkit.opened import open_model
from llmkit.vision import noise
from llmkit.vision.vq import Vq
from llmkit.vision.vq_prior import VqPrior
from tests import ranks
from tests.vision import small

SHAPE = {"size": 4, "channels": 1}


def model(**changes) -> VqPrior:
    codec = Vq.Settings(**SHAPE, width=4, layers=1, blocks=1, codes=3, code_dim=2)
    settings = VqPrior.Settings(**SHAPE, codec=codec, width=8, layers=2, classes=3, **changes)
    with torch.device("meta"):
        made = VqPrior(settings)
    return initialise(made, seed=1).eval()


@torch.no_grad()
def test_the_probabilities_of_all_grids_of_codes_add_up_to_one():
    made = model(conditional=True)
    grids = torch.tensor(list(itertools.product(range(3), repeat=4))).view(-1, 2, 2)
    made.trunk.forward = lambda x: (None, {"": (None, None, grids)})
    total = (-made.nll(torch.zeros(81, 1, 4, 4), torch.full((81,), 1))).double().exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-5)


@torch.no_grad()
def test_codes_are_drawn_as_often_as_they_are_likely():
    made = model()
    made.prior.last.bias.copy_(torch.tensor([0.0, 1.0, -1.0]))
    codes = made.draw(noise.keys(0, 4000), None)
    first = torch.bincount(codes[:, 0, 0], minlength=3) / 4000
    logits = made.prior(torch.zeros(1, 3, 2, 2))[0, :, 0, 0]
    assert torch.allclose(first, logits.softmax(0), atol=0.03)
    frozen = made.draw(noise.keys(0, 50), None, truncation=0.0)
    assert torch.equal(frozen, frozen[:1].expand(50, -1, -1))
    assert made.sample(noise.keys(0, 3)).shape == (3, 1, 4, 4)


def test_a_prior_needs_the_autoencoder_that_it_is_of():
    with pytest.raises(ConfigError, match="a prior is one of a trained vq; set init=RUN"):
        VqPrior(VqPrior.Settings(**SHAPE))
    with pytest.raises(ConfigError, match="begins with a trained vq of one level; set init=RUN"):
        VqPrior.Settings(**SHAPE).begun(None)
    with pytest.raises(ConfigError, match="init: its images are 1 x 4 x 4, those of data 1 x 8 x 8"):
        VqPrior(model().settings.model_copy(update={"size": 8}))


def stages(data: str, out: str) -> None:
    """A vq of averaged codes, then its prior with averaged weights."""
    small.train(data, f"{out}/vq", "vq_average")
    small.train(data, f"{out}/prior", "vq_prior", {"init": f"{out}/vq", "optim__ema": 0.9})


@pytest.mark.slow
def test_two_stages_end_in_one_model_that_goes_on_and_is_exported(tmp_path):
    data, out = str(small.archive(tmp_path)), str(tmp_path)
    ranks.run(stages, 1, data, out)
    codec = small.tensors(f"{out}/vq") | small.tensors(f"{out}/vq", "buffer")
    inside = small.tensors(f"{out}/prior") | small.tensors(f"{out}/prior", "buffer")
    for name, tensor in codec.items():  # what the first stage learned, bit for bit, its codebook too
        assert torch.equal(inside[name.replace("model/", "model/trunk.")], tensor), name
    run = f"{out}/prior"
    (ended,) = ranks.spawn(
        small.train, 1, data, f"{out}/killed", "vq_prior",
        {"init": f"{out}/vq", "optim__ema": 0.9}, env={"LLMKIT_FAULT": "phase0@4:0"},
    )  # fmt: skip
    assert ended.code == -9
    again = {"init": f"{out}/vq", "optim__ema": 0.9}
    ranks.run(small.train, 1, data, f"{out}/killed", "vq_prior", again)
    assert small.digest(small.newest(f"{out}/killed")) == small.digest(small.newest(run))
    assert main(["export", run, f"{out}/hf"]) == 0
    pictures = []
    for name, source in (("run", run), ("hf", f"{out}/hf")):
        path = Path(f"{out}/{name}.png")
        assert main(["sample", source, "--out", str(path), "--count", "4"]) == 0
        pictures.append(path.read_bytes())
    assert pictures[0] == pictures[1]
    assert isinstance(open_model(f"{out}/hf").net, VqPrior)

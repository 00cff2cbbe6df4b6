"""A sample that makes a gradient non-finite on one rank: no rank applies that step."""

import pytest
import torch

from llmkit.checkpoint.fragments import Reader
from tests import ranks
from tests.checkpoint import small
from tests.faults import scenes

BACKENDS = ("ddp", "zero1", "zero2", "zero3")
STEP = 3
SAMPLE = STEP * 4 + 1
"""A sample of that step which rank 1 holds."""


def poisoned(what, backend="ddp"):
    return {"data__poison": {SAMPLE: what}, "parallel__backend": backend}


def weights(out):
    reader = Reader(small.newest(out))
    return {
        (kind, n): t for kind in ("param", "exp_avg", "ema") for n, t in reader.whole("model", kind).items()
    }


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """The same run, with that step computed and thrown away."""
    out = str(tmp_path_factory.mktemp("without") / "run")
    ranks.run(scenes.omitting, 2, out, "toy", {}, STEP)
    return weights(out)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("what", ["nan", "inf", "gradient"])
def test_a_non_finite_gradient_is_applied_on_no_rank(tmp_path, without, backend, what):
    out = str(tmp_path / "run")
    ranks.run(small.train, 2, out, "toy", poisoned(what, backend))
    found = weights(out)
    assert found.keys() == without.keys()
    assert all(tensor.isfinite().all() for tensor in found.values())
    for key, tensor in found.items():
        assert torch.allclose(tensor, without[key], rtol=0, atol=1e-6), key
    assert small.lines(out)[-1]["skipped"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_without_the_check_the_weights_would_be_gone(tmp_path, backend):
    out = str(tmp_path / "run")
    ranks.spawn(scenes.careless, 2, out, poisoned("nan", backend))
    assert not all(tensor.isfinite().all() for tensor in weights(out).values())


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["ddp", "zero2"])
def test_too_many_in_a_row_end_the_run_with_the_last_good_checkpoint_named(tmp_path, backend):
    settings = {
        "data__poison": dict.fromkeys(range(SAMPLE, 100), "nan"),
        "run__max_skips": 3,
        "parallel__backend": backend,
    }
    ended = ranks.spawn(small.train, 2, str(tmp_path / "run"), "toy", settings)
    assert [rank.code for rank in ended] == [5, 5]
    assert "3 non-finite gradients in a row; the last good checkpoint is" in ended[0].text
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())

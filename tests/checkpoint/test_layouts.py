"""Checkpoints do not know how they were computed: exact in the same layout, exact in any other."""

import functools

import pytest

from tests import ranks
from tests.checkpoint import layouts, small

EVERY = list(layouts.LAYOUTS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of every layout, written by two ranks."""
    folder = str(tmp_path_factory.mktemp("saved"))
    for layout, dtype in ranks.run(layouts.write, 2, folder)[0].items():
        assert dtype == ("torch.bfloat16" if layout.endswith("bf16") else "torch.float32"), layout
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 3])
def test_any_layout_and_world_reads_any_other_bit_for_bit(saved, world):
    here = EVERY if world == 2 else ["ddp", "zero1", "zero2", "zero3", "zero1 bf16", "zero3 bf16"]
    assert not ranks.run(layouts.read, world, saved, here, timeout_s=240)[0]


@functools.cache
def resumed(folder: str) -> dict[str, str]:
    return ranks.run(layouts.resumed, 2, folder, EVERY, timeout_s=300)[0]


@pytest.mark.slow
@pytest.mark.parametrize("layout", EVERY)
def test_a_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(layout, tmp_path_factory):
    ends = resumed(str(tmp_path_factory.getbasetemp() / "resumed"))
    here = {case: end for case, end in ends.items() if case.rpartition(" ")[0] == layout}
    assert here
    assert set(here.values()) == {"equal"}, here


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "forget"), [("ddp", "allocate"), ("zero2 bf16", "refresh"), ("zero3", "allocate")]
)
def test_forgetting_a_part_of_the_state_is_noticed(tmp_path, layout, forget):
    """The optimiser's step count, or the weights that are derived from the masters."""
    ends = ranks.run(layouts.resumed, 2, str(tmp_path), [layout], forget)[0]
    assert "different" in ends.values()


@pytest.mark.slow
def test_a_run_starts_from_anothers_average_alike_on_every_backend(tmp_path):
    first = str(tmp_path / "first")
    ranks.run(small.train, 2, first, "causal", {"optim__ema": 0.9})
    curves = {}
    for backend in ("ddp", "zero1", "zero2", "zero3"):
        out = str(tmp_path / backend)
        ranks.run(small.train, 2, out, "dpo", {"init": first, "parallel__backend": backend})
        curves[backend] = [
            figure for line in small.lines(out) for figure in (line["loss"], line["grad_norm"])
        ]
    for backend, curve in curves.items():
        assert curve == pytest.approx(curves["ddp"], rel=1e-5), backend


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["causal", "toygan"])
def test_a_run_may_change_its_ranks_and_stage_at_every_stop(tmp_path, kind):
    straight, moved = str(tmp_path / "straight"), str(tmp_path / "moved")
    ranks.run(small.train, 2, straight, kind, {})
    for world, backend, steps in ((2, "zero1", 3), (1, "zero2", 5), (3, "ddp", 8)):
        ranks.run(small.train, world, moved, kind, {"parallel__backend": backend, "run__steps": steps})
    for here, there in zip(small.lines(moved), small.lines(straight), strict=True):
        same = [key for key in there if "loss" in key or "grad_norm" in key]
        assert {key: here[key] for key in same} == pytest.approx({key: there[key] for key in same}, rel=1e-5)

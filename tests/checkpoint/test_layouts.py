"""Checkpoints do not know how they were computed: exact in the same layout, exact in any other."""

import functools

import pytest

from tests import ranks
from tests.checkpoint import layouts

EVERY = list(layouts.LAYOUTS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of every layout, written by two ranks."""
    folder = str(tmp_path_factory.mktemp("saved"))
    ranks.run(layouts.write, 2, folder)
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

"""The quickstart's pretraining in quick mode: one curve whatever the backend and the number of ranks.

At full size, on the State of the Union: `python -m tests.parity.curves runs/quickstart/shards`.
"""

import pytest

from tests import ranks
from tests.parity import curves


@pytest.mark.slow
def test_twenty_steps_agree_on_all_backends_and_ranks(code_shards):
    recipe = curves.recipe(code_shards, True, **curves.PARITY)
    backends = list(curves.BACKENDS)
    by_world = [ranks.run(curves.curves, world, recipe, backends, timeout_s=300)[0] for world in (1, 2)]
    first = by_world[0]["ddp"]
    assert first[-1] < first[0]
    for found in by_world:
        for backend, losses in found.items():
            assert losses == pytest.approx(first, rel=1e-5), backend


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_at_the_recipes_own_learning_rate_single_steps_from_equal_states_agree(code_shards, tmp_path, world):
    own = curves.recipe(code_shards, True)
    backends = list(curves.BACKENDS)
    found = ranks.run(curves.single_steps, world, own, backends, str(tmp_path), timeout_s=300)[0]
    for backend, off in found.items():
        assert all(value <= 1e-6 for value in off.values()), (backend, off)

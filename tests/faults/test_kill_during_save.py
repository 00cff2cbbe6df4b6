"""SIGKILL at every point of a save: the run goes on from a whole checkpoint and ends the same."""

import pytest

from llmkit.checkpoint.store import FAULT_POINTS
from tests import ranks
from tests.checkpoint import small
from tests.faults import scenes

KEEP_ONE = {"run__keep": 1}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    ranks.run(small.train, 2, str(out), "toy", KEEP_ONE)
    return small.digest(small.newest(out))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "rank"),
    [(point, rank) for point in FAULT_POINTS for rank in (0, 1) if (point, rank) != ("pruning", 1)],
)
def test_a_kill_during_a_save_costs_nothing_but_steps(tmp_path, undisturbed, point, rank):
    out = tmp_path / "run"
    killed = ranks.spawn(small.train, 2, str(out), "toy", KEEP_ONE, env={"LLMKIT_FAULT": f"{point}@4:{rank}"})
    assert killed[rank].code == -9
    assert killed[1 - rank].code != 0
    step = small.newest(out).name
    assert step in ("step_00000002", "step_00000004")
    resumed = ranks.run(small.train, 2, str(out), "toy", KEEP_ONE)
    assert resumed == [None, None]
    assert [line["step"] for line in small.lines(out)] == list(range(1, 9))
    assert small.digest(small.newest(out)) == undisturbed
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step_00000008"]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["zero1", "zero3"])
def test_a_kill_in_the_middle_of_a_shard_is_survived_under_zero(tmp_path, backend):
    straight, broken = (str(tmp_path / name) for name in ("straight", "broken"))
    settings = {"parallel__backend": backend}
    ranks.run(small.train, 2, straight, "toy", settings)
    ranks.spawn(small.train, 2, broken, "toy", settings, env={"LLMKIT_FAULT": "mid_shard@6:1"})
    assert small.newest(broken).name == "step_00000004"
    ranks.run(small.train, 2, broken, "toy", settings)
    assert small.digest(small.newest(broken)) == small.digest(small.newest(straight))


@pytest.mark.slow
def test_written_in_place_and_unverified_a_kill_leaves_a_torn_checkpoint(tmp_path):
    out = str(tmp_path / "run")
    ranks.spawn(scenes.torn, 2, out, {}, env={"LLMKIT_FAULT": "mid_shard@4:0"})
    ended = ranks.spawn(scenes.torn, 2, out, {}, timeout_s=30)
    assert all(rank.code for rank in ended)

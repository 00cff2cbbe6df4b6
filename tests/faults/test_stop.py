"""SIGTERM, to one rank or all, once or often: all ranks stop at one step, with a published checkpoint."""

import pytest

from tests import ranks
from tests.checkpoint import small
from tests.faults import scenes

LONG = {"run__steps": 400, "run__save_every": 0, "run__log_every": 1}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = str(tmp_path_factory.mktemp("undisturbed") / "run")
    ranks.run(small.train, 2, out, "toy", LONG)
    return small.digest(small.newest(out))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("who", "times"),
    [([0], 1), ([1], 1), ([0, 1], 1), ([0, 1], 3)],
    ids=["rank 0", "rank 1", "all", "thrice"],
)
def test_a_stop_is_agreed_and_published_and_continues_bit_for_bit(tmp_path, undisturbed, who, times):
    out = str(tmp_path / "run")
    ended = ranks.spawn(scenes.signalled, 2, out, LONG, who, "metrics.jsonl", times, timeout_s=60)
    assert [rank.code for rank in ended] == [75, 75], ended[0].text[-2000:]
    assert "stopped at step" in ended[0].text
    assert small.newest(out) is not None
    ranks.run(small.train, 2, out, "toy", LONG)
    assert small.digest(small.newest(out)) == undisturbed


@pytest.mark.slow
def test_a_signal_during_a_save_does_not_spoil_it(tmp_path):
    out = str(tmp_path / "run")
    settings = {**LONG, "run__save_every": 1}
    ended = ranks.spawn(
        scenes.signalled, 2, out, settings, [0, 1], "checkpoints/step_00000003", 5, timeout_s=60
    )
    assert [rank.code for rank in ended] == [75, 75]
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


@pytest.mark.slow
def test_a_time_limit_stops_the_same_way(tmp_path):
    settings = {**LONG, "run__steps": 100_000, "run__time_limit_s": 0.5}
    ended = ranks.spawn(small.train, 2, str(tmp_path / "run"), "toy", settings, timeout_s=60)
    assert [rank.code for rank in ended] == [75, 75]
    assert "time limit" in ended[0].text or "another rank" in ended[0].text

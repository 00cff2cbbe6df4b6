"""A checkpoint that is written while training goes on is the one that would have been written before."""

import pytest

from tests import ranks
from tests.checkpoint import small
from tests.faults import scenes

BEHIND = {"run__save_in_background": True, "run__keep": 9}


def digests(out) -> dict[str, str]:
    return {path.name: small.digest(path) for path in (out / "checkpoints").iterdir()}


@pytest.fixture(scope="module")
def in_the_foreground(tmp_path_factory):
    out = tmp_path_factory.mktemp("foreground") / "run"
    ranks.run(small.train, 2, str(out), "toy", {"run__keep": 9})
    return digests(out)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["ddp", "zero1", "zero3"])
def test_training_goes_on_and_every_checkpoint_is_of_its_step(tmp_path, in_the_foreground, backend):
    out = tmp_path / "run"
    seen, _ = ranks.run(scenes.slow_disk, 2, str(out), BEHIND | {"parallel__backend": backend})
    assert [begun for begun, ended in seen if ended > begun], seen
    found = digests(out)
    assert found.keys() == in_the_foreground.keys()
    if backend == "ddp":  # the stages agree with it up to rounding
        assert found == in_the_foreground


@pytest.mark.slow
def test_without_a_copy_a_checkpoint_would_be_of_several_steps(tmp_path, in_the_foreground):
    out = tmp_path / "run"
    ranks.run(scenes.slow_disk, 2, str(out), BEHIND, False)
    assert digests(out) != in_the_foreground


@pytest.mark.slow
@pytest.mark.parametrize(("point", "rank"), [("mid_shard", 1), ("before_rename", 0), ("after_rename", 0)])
def test_a_kill_during_a_save_costs_nothing_but_steps(tmp_path, in_the_foreground, point, rank):
    out = tmp_path / "run"
    killed = ranks.spawn(small.train, 2, str(out), "toy", BEHIND, env={"LLMKIT_FAULT": f"{point}@4:{rank}"})
    assert killed[rank].code == -9
    assert killed[1 - rank].code != 0
    assert small.newest(out).name in ("step_00000002", "step_00000004")
    ranks.run(small.train, 2, str(out), "toy", BEHIND)
    assert [line["step"] for line in small.lines(out)] == list(range(1, 9))
    assert digests(out) == in_the_foreground


@pytest.mark.slow
def test_a_stop_waits_for_what_is_being_written(tmp_path):
    out = tmp_path / "run"
    long = BEHIND | {"run__steps": 400, "run__save_every": 1, "run__keep": 2}
    ended = ranks.spawn(
        scenes.signalled, 2, str(out), long, [0, 1], "checkpoints/step_00000003", 5, timeout_s=60
    )
    assert [rank.code for rank in ended] == [75, 75], ended[0].text[-2000:]
    assert not list((out / "checkpoints").glob(".*"))
    assert small.newest(out).name == f"step_{len(small.lines(out)):08d}"


@pytest.mark.slow
def test_a_full_disk_is_said_at_the_next_save_and_too_many_end_the_run(tmp_path):
    once, often = tmp_path / "once", tmp_path / "often"
    ended = ranks.spawn(scenes.full_disk, 2, str(once), BEHIND, [4])
    assert [rank.code for rank in ended] == [0, 0], ended[0].text
    assert ended[0].text.count("checkpoint of step 4 not saved (rank 1: [Errno 28]") == 1
    assert sorted(digests(once)) == ["step_00000002", "step_00000006", "step_00000008"]
    settings = BEHIND | {"run__max_failed_saves": 2}
    ended = ranks.spawn(scenes.full_disk, 2, str(often), settings, [4, 6, 8])
    assert [rank.code for rank in ended] == [4, 4], [rank.text for rank in ended]
    assert "2 saves in a row failed" in ended[0].text
    assert small.newest(often).name == "step_00000002"

"""A checkpoint damaged on disk: all ranks go on from the one before, and say what was wrong with it."""

import json

import pytest

from tests import ranks
from tests.checkpoint import small

MORE = {"run__steps": 12}


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rank_00001.safetensors", "state.json", "index.json"])
def test_all_ranks_pass_over_a_damaged_checkpoint_and_end_the_same(tmp_path, name):
    straight, broken = (tmp_path / name for name in ("straight", "broken"))
    ranks.run(small.train, 2, str(straight), "toy", MORE)
    ranks.run(small.train, 2, str(broken), "toy", {})
    flip(broken / "checkpoints" / "step_00000008" / name)
    ended = ranks.spawn(small.train, 2, str(broken), "toy", MORE)
    assert [rank.code for rank in ended] == [0, 0]
    assert f"passed over: {broken}/checkpoints/step_00000008: damaged: {name} has sha256" in ended[0].text
    assert "continuing from step 6" in ended[0].text
    assert "run.steps: 8 before, 12 now: the learning rate follows" in ended[0].text
    assert small.digest(small.newest(broken)) == small.digest(small.newest(straight))


@pytest.mark.slow
def test_if_every_checkpoint_is_damaged_the_run_does_not_begin_again(tmp_path):
    out = tmp_path / "run"
    ranks.run(small.train, 2, str(out), "toy", {})
    for path in (out / "checkpoints").iterdir():
        flip(path / "rank_00000.safetensors")
    ended = ranks.spawn(small.train, 2, str(out), "toy", MORE)
    assert ended[0].code == 4
    assert ended[1].code in (4, 6), ended[1].text  # it only knows that it has lost rank 0
    assert "no checkpoint is whole; start afresh with --fresh" in ended[0].text
    assert json.loads((out / "exit.json").read_text())["code"] == 4

"""SIGKILL at random moments: there is always a whole checkpoint, and never an older one than before.

LLMKIT_KILLS=200 makes a night of it.
"""

import os
import random

import pytest

from tests import ranks
from tests.checkpoint import small
from tests.faults import scenes

KILLS = int(os.environ.get("LLMKIT_KILLS", 6))
LONG = {"run__steps": 500, "run__save_every": 10, "run__log_every": 250}


@pytest.mark.slow
def test_random_kills_lose_at_most_one_interval_and_change_nothing(tmp_path):
    straight, killed = (str(tmp_path / name) for name in ("straight", "killed"))
    ranks.run(small.train, 2, straight, "toy", LONG)
    choose, step, deaths = random.Random(KILLS), 0, 0
    for _ in range(KILLS):
        who = choose.choice([[0], [1], [0, 1]])
        ended = ranks.spawn(scenes.doomed, 2, killed, LONG, who, choose.uniform(0.1, 1.5), grace_s=5)
        deaths += any(rank.code == -9 for rank in ended)
        newest = small.newest(killed) if os.path.isdir(f"{killed}/checkpoints") else None
        found = int(newest.name.removeprefix("step_")) if newest else 0
        assert found >= step
        step = found
    ranks.run(small.train, 2, killed, "toy", LONG)
    assert deaths
    assert small.digest(small.newest(killed)) == small.digest(small.newest(straight))

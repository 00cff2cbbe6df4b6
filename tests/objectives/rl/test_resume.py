"""A run that is killed, in a rollout or between updates, ends with the numbers of one that is not."""

from pathlib import Path

import pytest

from llmkit.engine.saver import Saver
from tests import ranks
from tests.checkpoint.small import digest, lines, newest
from tests.objectives.rl import small

PPO = {"name": "ppo", "minibatches": 2, "epochs": 2, "kl": 0.1, "kl_target": 0.05, "kl_horizon": 50}
GRPO = {"name": "grpo", "samples": 3, "kl": 0.1}
REPLIES = 8 * 6 + 2 * 4
"""Of PPO's run: 8 a step, and 4 at each evaluation."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("rl") / "lists"
    small.lists(folder)
    return str(folder)


def curve(out: str) -> list[dict]:
    """What was logged, without what the clock says."""
    told = ("time", "step_s", "tokens_per_s", "useful_tokens_per_s", "memory_gib", "eta_s")
    return [{key: value for key, value in line.items() if key not in told} for line in lines(out)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory, data, tokenizer_dir) -> dict[int, str]:
    """PPO without a disturbance, on one rank and on two."""
    folder = tmp_path_factory.mktemp("straight")
    out = {}
    for world in (1, 2):
        out[world] = str(folder / str(world))
        ranks.run(small.train, world, out[world], data, str(tokenizer_dir), PPO)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("at", [3 * 8 + 4 + 3, REPLIES])
def test_a_kill_in_a_rollout_changes_nothing(tmp_path, data, tokenizer_dir, straight, at):
    out, counter = str(tmp_path / "run"), str(tmp_path / "replies")
    objective = {**PPO, "rewards": [{"name": "odd", "kill": counter, "at": at}]}
    (ended,) = ranks.spawn(small.train, 1, out, data, str(tokenizer_dir), objective)
    assert ended.code == -9
    assert len(Path(counter).read_text()) == at
    ranks.run(small.train, 1, out, data, str(tokenizer_dir), objective)
    assert digest(newest(out)) == digest(newest(straight[1]))
    assert curve(out) == curve(straight[1])


@pytest.mark.slow
def test_a_kill_between_the_updates_of_policy_and_value_changes_nothing(
    tmp_path, data, tokenizer_dir, straight
):
    out = str(tmp_path / "run")
    words = (out, data, str(tokenizer_dir), PPO)
    ended = ranks.spawn(small.train, 2, *words, grace_s=5, env={"LLMKIT_FAULT": "phase1@3:1"})
    assert ended[1].code == -9
    ranks.run(small.train, 2, *words)
    assert digest(newest(out)) == digest(newest(straight[2]))
    assert curve(out) == curve(straight[2])


def forgetful(*words) -> None:
    """A run that continues with the KL weight it was configured with, not with the one it had adapted."""
    honest = Saver.resume

    def resume(self):
        before = dict(self.objective.state)
        step = honest(self)
        self.objective.state.update(before)
        return step

    Saver.resume = resume
    small.train(*words)


@pytest.mark.slow
def test_a_controller_that_is_not_restored_is_noticed(tmp_path, data, tokenizer_dir, straight):
    words = (str(tmp_path / "run"), data, str(tokenizer_dir), PPO)
    ranks.spawn(small.train, 1, *words, env={"LLMKIT_FAULT": "phase0@3:0"})
    ranks.run(forgetful, 1, *words)
    assert digest(newest(words[0])) != digest(newest(straight[1]))


@pytest.mark.slow
def test_replies_do_not_depend_on_ranks_or_micro_batches(tmp_path, data, tokenizer_dir):
    """The first step's replies are those of the same weights, so their figures agree to rounding."""
    figures = []
    for world, micro, backend in ((1, 4, "ddp"), (1, 1, "ddp"), (2, 1, "ddp"), (2, 2, "zero3")):
        out = str(tmp_path / f"{world}-{micro}-{backend}")
        changes = {"run__steps": 2, "batch__micro_rows": micro, "parallel__backend": backend}
        ranks.run(small.train, world, out, data, str(tokenizer_dir), GRPO, changes)
        figures.append([(line["reward"], line["length"], line["entropy"]) for line in lines(out)])
    for other in figures[1:]:
        for step, mine in zip(other, figures[0], strict=True):
            assert step == pytest.approx(mine, rel=1e-5)

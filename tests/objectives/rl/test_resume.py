"""A run that is killed, in a rollout or in an update, ends with the numbers of one that is not."""

import os
import signal
from pathlib import Path

import pytest

from llmkit.engine.backend_ddp import Ddp
from llmkit.engine.saver import Saver
from tests import ranks
from tests.checkpoint.small import digest, lines, newest
from tests.objectives.rl import small

PPO = {"name": "ppo", "minibatches": 2, "epochs": 2, "kl": 0.1, "kl_target": 0.05, "kl_horizon": 50}
GRPO = {"name": "grpo", "samples": 3, "kl": 0.1, "epochs": 2}
OBJECTIVES = {"ppo": PPO, "grpo": GRPO}
REPLIES = {"ppo": 8 * 6 + 2 * 4, "grpo": 12 * 6 + 2 * 12}
"""Of a run: so many at every step, and at each of the two evaluations."""
IN_STEP_3 = {"ppo": 3 * 8 + 4 + 3, "grpo": 3 * 12 + 12 + 5}
"""A reply of the rollout of step 3, which no checkpoint holds."""


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
def straight(tmp_path_factory, data, tokenizer_dir) -> dict[tuple[str, int], str]:
    """(objective, ranks) -> a run of it without a disturbance."""
    folder = tmp_path_factory.mktemp("straight")
    out = {}
    for name, world in (("ppo", 1), ("ppo", 2), ("grpo", 1)):
        out[name, world] = str(folder / f"{name}{world}")
        words = (out[name, world], data, str(tokenizer_dir), OBJECTIVES[name])
        ranks.run(small.train, world, *words)
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "at"), [(name, at[name]) for at in (IN_STEP_3, REPLIES) for name in OBJECTIVES]
)
def test_a_kill_in_a_rollout_changes_nothing(tmp_path, data, tokenizer_dir, straight, name, at):
    out, counter = str(tmp_path / "run"), str(tmp_path / "replies")
    objective = {**OBJECTIVES[name], "rewards": [{"name": "odd", "kill": counter, "at": at}]}
    (ended,) = ranks.spawn(small.train, 1, out, data, str(tokenizer_dir), objective)
    assert ended.code == -9
    assert len(Path(counter).read_text()) == at
    ranks.run(small.train, 1, out, data, str(tokenizer_dir), objective)
    assert digest(newest(out)) == digest(newest(straight[name, 1]))
    assert curve(out) == curve(straight[name, 1])


def dying(shares: int, *words) -> None:
    """A run that is killed when it has made so many shares of a loss: in the middle of an update."""
    honest, made = Ddp.backward, []

    def backward(self, phase, loss):
        honest(self, phase, loss)
        made.append(phase)
        if len(made) == shares:
            os.kill(os.getpid(), signal.SIGKILL)

    Ddp.backward = backward
    small.train(*words)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shares"), [("ppo", 3 * 16 + 3), ("grpo", 3 * 4 + 3)])
def test_a_kill_in_an_update_changes_nothing(tmp_path, data, tokenizer_dir, straight, name, shares):
    """The first of the two micro-batches of an update of step 3 has its gradient, the second has not."""
    words = (str(tmp_path / "run"), data, str(tokenizer_dir), OBJECTIVES[name])
    (ended,) = ranks.spawn(dying, 1, shares, *words)
    assert ended.code == -9
    assert newest(words[0]).name == "step_00000002"
    ranks.run(small.train, 1, *words)
    assert digest(newest(words[0])) == digest(newest(straight[name, 1]))
    assert curve(words[0]) == curve(straight[name, 1])


@pytest.mark.slow
def test_a_kill_between_the_updates_of_policy_and_value_changes_nothing(
    tmp_path, data, tokenizer_dir, straight
):
    out = str(tmp_path / "run")
    words = (out, data, str(tokenizer_dir), PPO)
    ended = ranks.spawn(small.train, 2, *words, grace_s=5, env={"LLMKIT_FAULT": "phase1@3:1"})
    assert ended[1].code == -9
    ranks.run(small.train, 2, *words)
    assert digest(newest(out)) == digest(newest(straight["ppo", 2]))
    assert curve(out) == curve(straight["ppo", 2])


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
    assert digest(newest(words[0])) != digest(newest(straight["ppo", 1]))


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

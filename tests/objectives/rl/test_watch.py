"""Stop rules: a broken one stops saving, and ends the run if it stays broken."""

import pytest

from llmkit import config
from llmkit.errors import ConfigError
from llmkit.objectives.rl.grpo import Grpo
from llmkit.objectives.rl.policy import PolicyGradient
from llmkit.objectives.rl.watch import StopRules, broken
from llmkit.objectives.watch import heed
from tests import ranks
from tests.checkpoint.small import lines, newest
from tests.objectives.rl import small

GRPO = {"name": "grpo", "samples": 4, "kl": 1e-6, "stop": {"kl": 0.01, "patience": 3}}
FAST = {"run__save_every": 1, "run__eval_every": 0, "run__steps": 12, "optim__lr": 0.02}


def saving_anyway(out: str, data: str, tokenizer: str, objective: dict, overrides: dict) -> None:
    """A run without the safeguard: it saves while a rule is broken."""
    honest = PolicyGradient.after

    def after(self, phase, seen, applied):
        honest(self, phase, seen, applied)
        self.warning = ""

    PolicyGradient.after = after
    small.train(out, data, tokenizer, objective, overrides)


@pytest.mark.slow
@pytest.mark.parametrize("train", [small.train, saving_anyway])
def test_a_run_that_drifts_too_far_ends_and_goes_back_to_before_it_did(tmp_path, tokenizer_dir, train):
    small.lists(tmp_path / "lists")
    out = str(tmp_path / "run")
    words = (out, str(tmp_path / "lists"), str(tokenizer_dir), GRPO, FAST)
    (ended,) = ranks.spawn(train, 1, *words)
    assert ended.code == 5
    first = next(line["step"] for line in lines(out) if line["kl"] > 0.01)
    assert lines(out)[-1]["step"] == first + 2
    good = newest(out).name == f"step_{first - 1:08d}"
    assert good == (train is small.train)
    assert "objective.stop.kl: KL of" in ended.text
    assert f"back to {newest(out)}" in ended.text


FIGURES = {"kl": 0.1, "entropy": 1.0, "length": 10.0, "repetition": 0.1, "reward": 0.2, "reward_std": 0.5,
           "judged": 1.0, "judged_std": 2.0}  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "limit", "later"),
    [
        ("kl", 0.2, {"kl": 0.3}),
        ("entropy", 0.5, {"entropy": 0.4}),
        ("length", 2.0, {"length": 21.0}),
        ("repetition", 0.3, {"repetition": 0.4}),
        ("disagreement", 1.5, {"reward": 0.8, "judged": 0.0}),
    ],
)
def test_each_rule_looks_at_its_own_figure(rule, limit, later):
    rules, state = StopRules(**{rule: limit}), {}
    seen = [heed(broken(rules, FIGURES | now, state), 2, state) for now in ({}, later, {}, later, later)]
    assert [bool(warning) for warning, _ in seen] == [False, True, False, True, True]
    assert [bool(verdict) for _, verdict in seen] == [False, False, False, False, True]
    assert seen[-1][1].startswith(f"stop.{rule}: ")


def test_a_reward_that_the_judge_shares_is_no_disagreement():
    rules, state = StopRules(disagreement=1.5), {}
    broken(rules, FIGURES, state)
    assert not any(broken(rules, FIGURES | {"reward": 1.0, "judged": 3.0}, state).values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rewards": []}, "gives no reward"),
        ({"stop": {"disagreement": 1.0}}, "needs a judge"),
        ({"kl_target": 0.1}, "kl_target adapts kl, which is 0"),
        ({"samples": 1}, "compares replies to a prompt"),
        ({"dual_clip": 0.5}, "must be greater than 1"),
        ({"rewards": [{"name": "exatc"}]}, "did you mean exact"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        config.resolve(Grpo.Settings, {"name": "grpo", "rewards": [{"name": "exact"}], **settings})

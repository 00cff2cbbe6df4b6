"""Exact match, reply loss, preference, reward accuracy and samples on real, tiny models."""

import copy
import dataclasses
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch

from llmkit.data.sets.pairs import render_reply
from llmkit.errors import ConfigError, DataError
from llmkit.eval import records, replies, scoring
from llmkit.eval.before import opened_before
from llmkit.eval.metrics.exact_match import ExactMatch
from llmkit.eval.metrics.preference import Preference
from llmkit.eval.metrics.reply_loss import ReplyLoss
from llmkit.eval.metrics.reward_accuracy import RewardAccuracy, judge
from llmkit.eval.metrics.samples import Samples
from llmkit.eval.metrics.verified import Verified
from llmkit.eval.scoring import Reply, k3


def heldout_pairs(opened, world):
    return scoring.pairs(opened, records.heldout(str(world / "pairs"), ("prompt",)))


def test_log_probabilities_do_not_depend_on_the_batch_they_stand_in(opened, world, monkeypatch):
    _, chosen, rejected = heldout_pairs(opened, world)
    mixed = [reply for pair in zip(chosen, rejected, strict=True) for reply in pair]
    together, tokens = scoring.log_probs(opened.net, mixed)
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 1)
    alone, _ = scoring.log_probs(opened.net, mixed)
    assert together == pytest.approx(alone, abs=1e-4)
    assert (tokens == [(reply.labels >= 0).sum() for reply in mixed]).all()


@torch.no_grad()
def test_a_reward_is_read_at_the_last_token_as_in_training(scorer, world):
    records_, chosen, _ = heldout_pairs(scorer, world)
    found = scoring.scores(scorer.net, chosen)
    tokens, _ = render_reply(scorer.tokenizer, records_[0]["prompt"], records_[0]["chosen"])
    assert found[0] == pytest.approx(scorer.net.scores(torch.tensor(tokens[None]))[0, -1].item(), abs=1e-5)


def test_accuracy_is_strict_and_the_length_rule_tosses_a_coin_for_ties():
    """The golden values of a reward model: one pair right, one wrong, one tied."""
    figures = judge(np.array([1 - 0.5, 0.2 - 0.4, 0.3 - 0.3]), longer=np.array([3, -1, 0]))
    assert figures["accuracy"] == pytest.approx(1 / 3)
    assert figures["ties"] == 1
    assert figures["longer_wins"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert figures["above_longer_wins"] == pytest.approx(1 / 3 - 0.5)


def test_a_judge_of_lengths_alone_is_not_above_the_length_rule():
    longer = np.random.default_rng(0).normal(0, 5, 400)
    figures = judge(longer * 0.3, longer)
    assert figures["above_longer_wins_ci95"] == [0.0, 0.0]
    assert figures["length_correlation"] == pytest.approx(1.0)


def test_reward_accuracy_reports_every_source(scorer, world):
    found = RewardAccuracy(RewardAccuracy.Settings(data=str(world / "pairs"))).measure(scorer)
    assert sum(source["pairs"] for source in found.figures["by_source"].values()) == found.figures["pairs"]
    assert np.mean([row["value"] for row in found.rows]) == found.figures["accuracy"]
    assert found.figures["longer_wins"] > 0.9
    assert found.figures["ci95"][0] <= found.figures["accuracy"] <= found.figures["ci95"][1]


def test_the_divergence_estimate_has_the_golden_value_and_is_never_negative():
    assert k3(torch.tensor(-1.0 + 1.3)).item() == pytest.approx(0.0408182207, abs=1e-7)
    assert (k3(torch.linspace(-3, 3, 50)) >= 0).all()


def test_a_model_compared_with_itself_has_changed_nothing(opened, world):
    settings = Preference.Settings(data=str(world / "pairs"), before=str(world / "run"), max_new=6)
    figures = Preference(settings).measure(opened).figures
    assert figures["accuracy_before"] == figures["accuracy_after"]
    assert figures["gain_ci95"] == [0.0, 0.0]
    assert figures["chosen_logprob_change"] == figures["kl"] == 0.0
    assert figures["mcnemar_p"] == 1.0
    assert figures["implicit_accuracy"] == 0.0


def test_raising_the_preferred_replies_raises_the_accuracy_and_costs_divergence(opened, world):
    from llmkit.opened import open_model

    tuned = open_model(world / "run", "lm")
    prefer(tuned, world)
    settings = Preference.Settings(data=str(world / "pairs"), before=str(world / "run"), max_new=6)
    figures = Preference(settings).measure(tuned).figures
    assert figures["accuracy_after"] > figures["accuracy_before"]
    assert figures["gain_ci95"][0] > 0
    assert figures["chosen_logprob_change"] > 0
    assert figures["kl"] > 0


def prefer(tuned, world) -> None:
    """Some plain steps towards the preferred replies and away from the others."""
    _, chosen, rejected = heldout_pairs(tuned, world)
    optimiser = torch.optim.AdamW(tuned.net.parameters(), lr=3e-3)
    for _ in range(6):
        for good, bad in zip(chosen, rejected, strict=True):
            margin = _log_p(tuned.net, good) - _log_p(tuned.net, bad)
            (-torch.nn.functional.logsigmoid(margin)).backward()
        optimiser.step()
        optimiser.zero_grad()


def _log_p(net, reply: Reply):
    tokens, labels = (torch.from_numpy(x)[None] for x in reply)
    return -net.nll(tokens, None, labels).sum()


def test_drawn_replies_end_in_the_token_that_stopped_them(opened):
    prompts = [[{"role": "user", "content": f"{i}"}] for i in range(8)]
    for reply in replies.drawn(opened, prompts, max_new=5, seed=3):
        assert 1 <= reply.size <= 5
        assert (reply.labels[reply.labels >= 0] == reply.tokens[-reply.size :]).all()


def test_replies_do_not_depend_on_their_neighbours(opened, monkeypatch):
    prompts = [[{"role": "user", "content": "peace " * n}] for n in range(1, 6)]
    together = replies.replies(opened, prompts, max_new=8)
    monkeypatch.setattr(replies, "ROWS", 1)
    assert replies.replies(opened, prompts, max_new=8) == together


def test_exact_match_counts_the_replies_that_are_the_answer(opened, world, tmp_path):
    asked = records.heldout(str(world / "chats"), ("answer",))
    said = replies.replies(opened, [record["messages"][:-1] for record in asked], max_new=6)
    for i, (record, reply) in enumerate(zip(asked, said, strict=True)):
        record["answer"] = f" {reply}\n" if i % 2 == 0 else "something else"
    (tmp_path / "heldout.jsonl").write_text("".join(json.dumps(record) + "\n" for record in asked))
    settings = ExactMatch.Settings(data=str(tmp_path), before=str(world / "run"), max_new=6)
    figures = ExactMatch(settings).measure(opened).figures
    assert figures["exact_match"] == math.ceil(len(asked) / 2) / len(asked)
    assert figures["exact_match_before"] == figures["exact_match"]
    assert figures["mcnemar_p"] == 1.0


def test_reply_loss_is_the_mean_over_reply_tokens(opened, world):
    settings = ReplyLoss.Settings(data=str(world / "chats"), before=str(world / "run"))
    measured = ReplyLoss(settings).measure(opened)
    weights = [row["weight"] for row in measured.rows]
    assert np.average([row["value"] for row in measured.rows], weights=weights) == pytest.approx(
        measured.figures["loss"]
    )
    assert measured.figures["tokens"] == sum(weights)
    assert measured.figures["loss_before"] == pytest.approx(measured.figures["loss"])
    assert 4 < measured.figures["loss"] < 8


def test_a_limit_takes_the_same_records_every_time(world):
    some = records.heldout(str(world / "chats"), ("answer",), limit=5)
    assert [r["id"] for r in some] == [
        r["id"] for r in records.heldout(str(world / "chats"), ("answer",), limit=5)
    ]
    assert len(some) == 5


def test_data_that_a_metric_cannot_use_is_named(world, tmp_path):
    with pytest.raises(DataError, match=r"no record has chosen"):
        records.heldout(str(world / "chats"), ("chosen",))
    with pytest.raises(DataError, match=r"holds no source 'faq'; known: .*conversations\.jsonl"):
        records.heldout(str(world / "chats"), ("answer",), sources=["faq"])
    with pytest.raises(DataError, match="there is no such file"):
        records.heldout(str(tmp_path), ("answer",))
    (tmp_path / "heldout.jsonl").write_text('{"id": 1}\n{"id": \n')
    with pytest.raises(DataError, match=r"heldout\.jsonl:2: not JSON"):
        records.heldout(str(tmp_path), ("id",))


def test_samples_are_the_same_for_the_same_seed(opened):
    settings = Samples.Settings(prompts=["the state", "peace"], max_new=6)
    first, again = (Samples(settings).measure(opened).figures["written"] for _ in range(2))
    assert first == again
    assert [sample["prompt"] for sample in first] == ["the state", "peace"]


def test_sources_of_one_family_are_also_counted_together():
    names = [
        "tasks/sum",
        "chats",
        "tasks/count",
        "tasks/sum",
        "/home/me/a.jsonl",
        "/home/me/b.jsonl",
        "alone/one",
    ]
    found = {
        name: list(mine) for name, mine in records.by_source([{"source": name} for name in names]).items()
    }
    assert found["tasks"] == [0, 2, 3]
    assert found["tasks/sum"] == [0, 3]
    assert found.keys() == {*names, "tasks"}


def narrow(opened, context: int):
    """`opened` with another context."""
    net = copy.copy(opened.net)
    net.settings = net.settings.model_copy(update={"context": context})
    return dataclasses.replace(opened, net=net)


def asked(world) -> list[list[dict]]:
    return [record["messages"][:-1] for record in records.heldout(str(world / "chats"), ("answer",))]


def test_prompts_that_lose_their_beginning_are_counted(opened, world):
    prompts = asked(world)
    sizes = sorted(len(replies.chat.render(opened.tokenizer, p, open_reply=True)[0]) for p in prompts)
    small = narrow(opened, sizes[-3] + 4)
    cut = sum(size > sizes[-3] for size in sizes)
    assert cut > 0
    data, counts = str(world / "chats"), Counter()
    replies.replies(small, prompts, 4, counts)
    assert counts == {"prompts_cut": cut}
    found = ExactMatch(ExactMatch.Settings(data=data, max_new=4, before=str(world / "run"))).measure(small)
    assert (found.figures["prompts_cut"], found.figures["prompts_cut_before"]) == (cut, 0)
    settings = {"data": data, "verifier": {"name": "exact"}, "max_new": 4, "limit": 0}
    assert Verified(Verified.Settings.model_validate(settings)).measure(small).figures["prompts_cut"] == cut
    shown = Samples(Samples.Settings(prompts=["peace " * 40, "law"], max_new=4)).measure(small)
    assert shown.figures["prompts_cut"] == 1


def test_a_model_before_that_reads_less_is_said(opened, world, capsys):
    opened_before(str(world / "run"), opened)
    assert not capsys.readouterr().err
    opened_before(str(world / "run"), narrow(opened, 200))
    assert "reads 96 tokens, the evaluated model 200; longer texts are new to it" in capsys.readouterr().err


def test_replies_that_leave_no_room_for_a_prompt_are_refused(opened, world):
    for write, prompts in ((replies.replies, asked(world)), (replies.written, ["law"])):
        with pytest.raises(ConfigError, match="max_new: 96 leave no room for a prompt in the context of 96"):
            write(opened, prompts, 96)


def test_pairs_that_do_not_fit_are_counted(opened, scorer, world):
    _, chosen, rejected = heldout_pairs(opened, world)
    longest = [max(len(a.tokens), len(b.tokens)) for a, b in zip(chosen, rejected, strict=True)]
    context = sorted(longest)[-3]
    left_out, data = sum(size > context for size in longest), str(world / "pairs")
    assert left_out > 0
    found = RewardAccuracy(RewardAccuracy.Settings(data=data)).measure(narrow(scorer, context)).figures
    assert (found["too_long"], found["pairs"]) == (left_out, len(longest) - left_out)
    settings = Preference.Settings(data=data, before=str(world / "run"), max_new=2, kl_prompts=1)
    assert Preference(settings).measure(narrow(opened, context)).figures["too_long"] == left_out


def test_the_prompts_behind_kl_are_spread_over_the_sources(opened, world, tmp_path):
    """Without a limit records come source by source; the first ones alone would be of one source."""
    lines = (world / "pairs" / "heldout.jsonl").read_text().splitlines()
    rows = [json.loads(line) | {"source": "ab"[2 * i // len(lines)]} for i, line in enumerate(lines)]
    (tmp_path / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn, kept = replies.drawn, []

    def keep(opened, prompts, *args):
        kept.extend(prompts)
        return drawn(opened, prompts, *args)

    settings = Preference.Settings(data=str(tmp_path), before=str(world / "run"), max_new=2, kl_prompts=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmkit.eval.metrics.preference.drawn", keep)
        assert Preference(settings).measure(opened).figures["kl_prompts"] == 8
    sources = Counter(row["source"] for row in rows if row["prompt"] in kept)
    assert set(sources) == {"a", "b"}

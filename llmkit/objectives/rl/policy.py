"""What all policy gradients have in common: replies, rewards, the clipped loss, the tie to the reference.

prepare    prompts ─► replies ─► rewards ─► advantages (the subclass's business)
updates    `epochs` times over `minibatches`: clipped loss + kl * KL(policy, reference) if kl_in = loss
after      adaptive KL, stop rules

A minibatch is one draw of the loader: `batch.rows` prompts with `samples` replies each. A step takes replies
to `minibatches` of them, and every optimiser step sees exactly one, whatever the layout of ranks.
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import model_validator

from llmkit.config import Component, Field, Section
from llmkit.log import warn
from llmkit.models.crossentropy import IGNORED
from llmkit.objectives.phase import Objective, add
from llmkit.objectives.rl import kl, rollout, watch
from llmkit.objectives.rl.rewards import Rewards
from llmkit.objectives.rl.surrogate import aggregate, clipped
from llmkit.objectives.watch import heed

BOUNDS = ("clip", "clip_high", "dual_clip", "value_clip")
"""Settings that bound how far the updates of one step go."""
SHOWN = 24
"""Replies of a sample table."""


class PolicySettings(Section):
    """Settings of every policy gradient."""

    samples: int = Field(8, ge=1, description="replies drawn for each prompt")
    max_new: int = Field(64, gt=0, description="longest reply in tokens, its end marker included")
    rewards: list[Annotated[Section, Component("verifier")]] = Field([], description="verifiers of replies")
    reward_model: str | None = Field(
        None, description="run or checkpoint of a reward model, for a learned reward"
    )
    reward_model_weight: float = Field(1.0, description="what a score of 1 adds to the reward")
    judge: str | None = Field(
        None, description="run or checkpoint of a second reward model, which only watches (stop.disagreement)"
    )
    reward_clip: float = Field(0.0, ge=0, description="rewards are cut off at +-this; 0: not")
    missing_eos_penalty: float = Field(
        0.0, ge=0, description="taken from the reward of a reply that max_new cut off"
    )
    mask_truncated: bool = Field(False, description="such replies carry no loss (DAPO's overlong filtering)")
    minibatches: int = Field(
        1, ge=1, description="optimiser steps that share a step's replies, batch.rows each"
    )
    epochs: int = Field(1, ge=1, description="how often each of them is taken")
    clip: float = Field(
        0.2, gt=0, description="largest decrease of a token's probability that pays, relative"
    )
    clip_high: float | None = Field(None, gt=0, description="largest increase; default: clip; DAPO: 0.28")
    dual_clip: float = Field(
        0.0, ge=0, description="bound of the loss where the advantage is negative; usual: 3"
    )
    ratio: Literal["token", "sequence", "sequence_mean"] = Field(
        "token", description="what is clipped: a token's ratio, a reply's product (RLOO), or its mean (GSPO)"
    )
    loss: Literal["grpo", "bnpo", "dapo", "dr_grpo", "luspo"] = Field(
        "dapo", description="how token losses are added up; dapo and bnpo: mean over all tokens"
    )
    kl: float = Field(0.0, ge=0, description="weight of the KL to the reference; 0: none is computed")
    kl_in: Literal["loss", "reward"] = Field("loss", description="where it is added")
    kl_estimator: Literal["k1", "k2", "k3"] = Field("k3", description="Schulman's estimators of the KL")
    kl_corrected: bool = Field(
        True, description="in the loss: times the ratio, as TRL since 1.16; the same while on-policy"
    )
    kl_target: float | None = Field(
        None, gt=0, description="nats per reply; kl is adapted to reach it (Ziegler et al. 2019)"
    )
    kl_horizon: float = Field(10_000, gt=0, description="replies over which kl is adapted")
    stop: watch.StopRules = watch.StopRules()
    only_with = {
        "kl_in": ("kl",),
        "kl_estimator": ("kl",),
        "kl_corrected": ("kl_in", "loss"),
        "kl_horizon": ("kl_target",),
        "reward_model_weight": ("reward_model",),
    }
    quick_values = {"samples": 4, "max_new": 8}

    @model_validator(mode="after")
    def _makes_sense(self):
        if not self.rewards and not self.reward_model:
            raise ValueError("gives no reward; name verifiers in rewards, or a reward_model")
        if self.stop.disagreement and not self.judge:
            raise ValueError("stop.disagreement needs a judge; name a second reward model")
        if self.kl_target and not self.kl:
            raise ValueError("kl_target adapts kl, which is 0; start it at 0.05, say")
        if self.dual_clip and self.dual_clip <= 1:
            raise ValueError(f"dual_clip={self.dual_clip} must be greater than 1; usual: 3")
        return self

    @property
    def referred(self) -> bool:
        """Whether the reference is asked at all."""
        return bool(self.kl or self.stop.kl)


class PolicyGradient(Objective):
    """Trains `model`. `reference` has its initial weights; `reward` and `judge` are other checkpoints."""

    references: ClassVar[dict[str, str]] = {"reference": "model"}
    metric_mode = "max"

    def __init__(self, settings):
        super().__init__(settings)
        self.draws = settings.minibatches
        self.rewards = Rewards(settings)
        self.state = {"kl": settings.kl}
        named = {"reward": settings.reward_model, "judge": settings.judge}
        self.inits = {net: checkpoint for net, checkpoint in named.items() if checkpoint}
        self._table: list[tuple] = []

    @property
    def updates(self) -> int:
        """Optimiser steps of a phase at each step."""
        return self.settings.epochs * self.settings.minibatches

    def build(self, make):
        self._say_unclipped()
        nets = {"model": make(dropout=0.0)}
        if self.settings.referred:
            nets["reference"] = make(dropout=0.0)
        return nets | {
            net: make(head="score", net=net, dropout=0.0) for net in ("reward", "judge") if net in self.inits
        }

    def _say_unclipped(self) -> None:
        """Name the bounds that were set though a step's only update is by the policy that spoke."""
        fields = type(self.settings).model_fields
        for key in BOUNDS if self.updates == 1 else ():
            if key in fields and getattr(self.settings, key) != fields[key].default:
                warn(f"objective.{key}: acts from a step's second update on; set epochs or minibatches")

    # ---- replies -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prepare(self, group, nets, total, key):
        """Prompts -> rows of replies with `reward`, `advantage` and what the updates compare with."""
        return self.advantages([self._replies(batch, nets) for batch in group], total)

    def _replies(self, batch, nets):
        s = self.settings
        said, rows = rollout.draw(nets["model"], batch, s.samples, s.max_new)
        rows |= self.rewards.columns(said, rows, nets)
        if s.mask_truncated:
            rows["labels"] = torch.where(rows["ended"][:, None], rows["labels"], IGNORED)
        if self.updates > 1 or s.kl_in == "reward":
            rows["old_nll"] = rollout.token_nll(nets["model"], rows)
        if s.referred:
            rows["reference_nll"] = rollout.token_nll(nets["reference"], rows)
        rows |= self.remember(nets, rows)
        if said:
            shown = zip(said[:SHOWN], rows["reward"][:SHOWN].tolist())
            self._table = [(r.record, r.text, r.ended, reward) for r, reward in shown]
        return rows

    def remember(self, nets, rows):
        """What else the updates compare with, by column."""
        return {}

    def penalty(self, rows):
        """kl * KL of every reply token where it is part of the reward, (B, T); else 0."""
        s, mask = self.settings, labelled(rows)
        if s.kl_in != "reward" or not s.kl:
            return torch.zeros_like(mask)
        x = rows["reference_nll"] - rows["old_nll"]
        return self.state["kl"] * kl.estimate(s.kl_estimator, x) * mask

    def advantages(self, group, total):
        """`group` with `advantage`, (B, 1) or (B, T)."""
        raise NotImplementedError

    def rows(self, phase, update, group):
        size = len(group) // self.draws
        first = update % self.settings.minibatches * size
        return group[first : first + size]

    # ---- the loss ------------------------------------------------------------------------------------------

    def count(self, phase, batch):
        return {"tokens": labelled(batch).sum(), "replies": batch["valid"].sum()}

    def policy_loss(self, batch, nll, total):
        """This micro-batch's share of the clipped loss and the KL, and what it saw. `nll` (B, T)."""
        s, mask = self.settings, labelled(batch)
        old = batch.get("old_nll", nll.detach())
        change = (old - nll) * mask  # log ratio
        if s.ratio != "token":
            sums = change.sum(1, keepdim=True)
            change = sums / mask.sum(1, keepdim=True).clamp(min=1) if s.ratio == "sequence_mean" else sums
        ratio = change.exp()
        high = s.clip if s.clip_high is None else s.clip_high
        loss = clipped(ratio, batch["advantage"], s.clip, high, s.dual_clip).expand_as(mask)
        if s.kl and s.kl_in == "loss":
            distance = kl.estimate(s.kl_estimator, batch["reference_nll"] - nll)
            loss = loss + self.state["kl"] * distance * (ratio if s.kl_corrected else 1)
        share = aggregate(s.loss, loss, mask, total, s.max_new)
        off = ((ratio < 1 - s.clip) | (ratio > 1 + high)) * mask
        return share, self._seen(batch, share.detach(), nll.detach(), old, mask, off, total)

    def _seen(self, batch, share, nll, old, mask, off, total):
        valid = batch["valid"].to(mask.dtype)
        seen = {
            **self.count(None, batch),
            "loss": share,
            "updates": valid.sum() / total["replies"],  # 1 over all micro-batches of an update
            "nll": (old * mask).sum(),
            "clipped": off.sum(),
            "change": ((old - nll).square() / 2 * mask).sum(),
            "length": batch["length"].sum(),
            "ended": batch["ended"].sum(),
            "repeated": batch["repeated"].sum(),
            "failed": batch["failed"] / (self.settings.epochs if torch.is_grad_enabled() else 1),
            "reward": batch["reward"].sum(),
            "reward_square": batch["reward"].square().sum(),
        }
        if "reference_nll" in batch:
            x = batch["reference_nll"] - old
            seen |= {"kl": (kl.estimate("k3", x) * mask).sum(), "kl1": (x * mask).sum()}
        if "judged" in batch:
            seen |= {"judged": batch["judged"].sum(), "judged_square": batch["judged"].square().sum()}
        return seen | {key: batch[key].sum() for key in batch if key.startswith("score_")}

    def metrics(self, phase, seen):
        """Means over replies: `reward` (and `score_NAME` of each part), `length` in tokens, `ended`.

        Over tokens: `kl` (k3) and `entropy` (the mean surprise at what was drawn) of the policy at the
        rollout, in nats; `clipped`, the share of ratios beyond the clip; `change`, half the squared log
        ratio.
        `failed`: replies whose verifier hung, crashed, raised or left processes behind.
        """
        replies, tokens = max(seen["replies"], 1), max(seen["tokens"], 1)
        figures = {
            "loss": seen["loss"] / max(seen["updates"], 1e-9),
            "reward": seen["reward"] / replies,
            **{key: seen[key] / replies for key in seen if key.startswith("score_")},
            "length": seen["length"] / replies,
            "ended": seen["ended"] / replies,
            "repetition": seen["repeated"] / replies,
            "entropy": seen["nll"] / tokens,
            "clipped": seen["clipped"] / tokens,
            "change": seen["change"] / tokens,
            "failed": seen["failed"],
        }
        for key in ("reward", "judged"):
            if f"{key}_square" in seen:
                mean = seen[key] / replies
                figures[f"{key}_std"] = max(seen[f"{key}_square"] / replies - mean**2, 0.0) ** 0.5
        if "judged" in seen:
            figures["judged"] = seen["judged"] / replies
        if "kl" in seen:
            figures |= {"kl": seen["kl"] / tokens, "kl_weight": self.state["kl"]}
        return figures

    def after(self, phase, seen, applied):
        if "reward" not in seen:
            return
        s, seen = self.settings, {key: float(value) for key, value in seen.items()}
        if s.kl_target:
            replies = max(seen["replies"], 1)
            found = (seen["kl"] if s.kl_estimator == "k3" else seen["kl1"]) / replies
            count = replies / s.epochs
            self.state["kl"] = kl.adapted(self.state["kl"], found, s.kl_target, count, s.kl_horizon)
        wrong = watch.broken(s.stop, self.metrics(phase, seen), self.state)
        self.warning, self.verdict = heed(wrong, s.stop.patience, self.state)

    def show(self, nets):
        """A table of the last replies: what was asked, said and expected, and the reward."""
        lines = ["| reward | asked | said | expected |", "|---|---|---|---|"]
        for record, text, ended, reward in self._table:
            messages = record.get("messages") or record["prompt"]
            asked = next(m["content"] for m in reversed(messages) if m["role"] == "user")
            said = _cell(text) + ("" if ended else " ...")
            lines.append(f"| {reward:.3g} | {_cell(asked)} | {said} | {_cell(record.get('answer', ''))} |")
        return {"replies.txt": ("\n".join(lines) + "\n").encode()}


def labelled(batch):
    """(B, T) fp32: 1 where a token of a reply is predicted."""
    return (batch["labels"] != IGNORED).float()


def total_moments(group, key: str, total, mask):
    """The sums of `advantages.moments` over a step's rows on all ranks; `mask(rows)` marks what counts."""
    from llmkit.objectives.rl.advantages import moments

    return total(add(moments(rows[key], mask(rows)) for rows in group))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " / ")

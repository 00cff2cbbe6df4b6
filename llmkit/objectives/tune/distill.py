"""Distillation: a small net learns what a larger one would say; the ways differ in whose replies count.

    replies: data      the data set's replies; the teacher's distribution at every labelled token
                       (Hinton et al. 2015), live, or its `top_k` tokens cached on disk
    replies: teacher   drawn by the teacher from prompts: sequence-level (Kim & Rush 2016) with `nll`
    replies: student   drawn by the student, judged by the teacher: on-policy, GKD (Agarwal et al. 2024)

    loss = (kl * D(teacher, student) + nll * NLL of the reply), summed over reply tokens / their global number
    D    = beta KL(teacher || m) + (1 - beta) KL(student || m),  m = beta teacher + (1 - beta) student
           (GKD, eq. 1); beta = 0: KL(teacher || student); beta = 1: KL(student || teacher), as in TRL

With `top_k`, both distributions are over the teacher's k most probable tokens and "any other": a lower bound
of the divergence between the whole ones.
"""

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import nll_loss

from llmkit.errors import ConfigError
from llmkit.models.crossentropy import IGNORED
from llmkit.objectives.phase import Objective, Phase
from llmkit.objectives.rl.rollout import draw
from llmkit.objectives.text.causal import count_labels
from llmkit.objectives.tune.reference import ReferenceSettings
from llmkit.registry import register


def divergence(teacher: Tensor, student: Tensor, beta: float) -> Tensor:
    """D(teacher, student) of log-probabilities (n, K) -> (n,), in nats: GKD's generalised Jensen-Shannon."""
    if beta in (0, 1):
        p, q = (teacher, student) if beta == 0 else (student, teacher)
        return _kl(p, q)
    mixture = torch.logaddexp(student + math.log1p(-beta), teacher + math.log(beta))
    return beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return (p.exp() * (p - q)).sum(-1)


def among(logp: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities (n, V) -> (n, k + 1): of the tokens `ids` (n, k), and of any other."""
    top = logp.gather(-1, ids)
    return torch.cat([top, other(top)], -1)


def other(top: Tensor) -> Tensor:
    """(n, k) -> (n, 1): the log-probability of what is not among them, at least that of one in a million."""
    return torch.log1p(-top.exp().sum(-1, keepdim=True).clamp(max=1 - 1e-6))


@register("objective", "distill")
class Distill(Objective):
    """Trains `model`; `teacher` is another checkpoint, frozen, with the same tokenizer. No dropout."""

    class Settings(ReferenceSettings):
        name: Literal["distill"] = "distill"
        teacher: str = Field(description="run or checkpoint that is learned from")
        replies: Literal["data", "teacher", "student"] = Field(
            "data", description="whose replies are learned; teacher and student need data: {name: prompts}"
        )
        kl: float = Field(1.0, ge=0.0, description="weight of the divergence between the distributions")
        nll: float = Field(0.0, ge=0.0, description="weight of the replies' NLL")
        beta: float = Field(
            0.0, ge=0.0, le=1.0, description="0: KL(teacher, student), 1: KL(student, teacher), else between"
        )
        temperature: float = Field(1.0, gt=0.0, description="both distributions are softened by it")
        top_k: int = Field(
            0, ge=0, description="the teacher's most probable tokens, and all others as one; 0: all apart"
        )
        samples: int = Field(1, ge=1, description="replies drawn for each prompt")
        max_new: int = Field(64, gt=0, description="longest drawn reply in tokens, its end marker included")
        only_with = {
            **ReferenceSettings.only_with,
            **dict.fromkeys(("beta", "temperature", "top_k"), ("kl",)),
            **dict.fromkeys(("samples", "max_new"), ("replies", "teacher", "student")),
        }
        quick_values = {"max_new": 8}

        @model_validator(mode="after")
        def _makes_sense(self):
            if not self.kl and not self.nll:
                raise ValueError("kl and nll are both 0: there is nothing to learn; set one of them")
            if not self.kl and self.replies != "teacher":
                raise ValueError(
                    "kl is 0, so the teacher is not asked; use objective sft, or replies=teacher"
                )
            if self.reference == "cached" and (self.replies != "data" or not self.top_k):
                raise ValueError("reference: cached keeps top_k tokens of replies=data; set top_k, say 16")
            return self

    phases = (Phase("train", "model"),)

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.inits = {"teacher": settings.teacher}
        self.whole = ("model",) if settings.replies == "student" else ()
        if settings.reference == "cached":
            self.column = f"teacher_top{settings.top_k}_t{settings.temperature:g}"
            self.column_net = "teacher"

    def build(self, make):
        nets = {"model": make(dropout=0.0)}
        return nets if self.column else nets | {"teacher": make(net="teacher", dropout=0.0)}

    def count(self, phase, batch):
        return count_labels(batch)

    @torch.no_grad()
    def prepare(self, group, nets, total, key):
        """Replies, if they are drawn, and what the teacher says of each."""
        s = self.settings
        if s.replies != "data":
            drawer = nets["teacher" if s.replies == "teacher" else "model"]
            group = [draw(drawer, batch, s.samples, s.max_new)[1] for batch in group]
        if self.column or not s.top_k or not s.kl:
            return group
        return [{**batch, "teacher": self.cell(nets["teacher"], batch)} for batch in group]

    def cell(self, net, batch):
        """(B, T, 2 top_k): log-probabilities of the teacher's most probable tokens, and these as numbers."""
        logp, at = self._logp(net, batch)
        values, ids = logp.topk(self.settings.top_k, -1)
        out = values.new_zeros(*batch["labels"].shape, 2 * self.settings.top_k, dtype=torch.float32)
        out[at] = torch.cat([values, ids.to(values.dtype)], -1).float()
        return out

    def loss(self, phase, nets, batch, total):
        s = self.settings
        student, at = self._logp(nets["model"], batch)
        labels = batch["labels"][at]
        seen = {"tokens": at.sum()}
        loss = student.new_zeros(())
        if s.kl:
            teacher, mine = self._distributions(nets, batch, student, at)
            apart = divergence(teacher, mine, s.beta).sum()
            loss, seen["kl"] = s.kl * apart, apart.detach()
            seen["agreed"] = (teacher.argmax(-1) == mine.argmax(-1)).sum()
        if s.nll or s.temperature == 1:
            plain = student if s.temperature == 1 else self._logp(nets["model"], batch, 1.0)[0]
            nll = nll_loss(plain, labels, reduction="sum")
            loss, seen["nll"] = loss + s.nll * nll, nll.detach()
        seen["loss"] = loss.detach()
        return loss / total["tokens"], seen

    def _distributions(self, nets, batch, student: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of teacher and student over the same outcomes, (n, K) each."""
        s = self.settings
        if not s.top_k:
            with torch.no_grad():
                teacher, _ = self._logp(nets["teacher"], batch)
            if teacher.shape != student.shape:
                raise ConfigError(
                    f"objective.teacher: has {teacher.shape[-1]} tokens, the model {student.shape[-1]}; "
                    "a student reads its teacher's vocabulary"
                )
            return teacher, student
        values, ids = batch[self.column or "teacher"][at].split(s.top_k, -1)
        return torch.cat([values, other(values)], -1), among(student, ids.long())

    def _logp(self, net, batch, temperature: float | None = None) -> tuple[Tensor, Tensor]:
        """(n, V) fp32 log-probabilities at the labelled positions `at` (B, T) of a batch."""
        at = batch["labels"] != IGNORED
        logits = net.logits(net.hidden(batch["tokens"], batch["segments"])[at]).float()
        return (logits / (temperature or self.settings.temperature)).log_softmax(-1), at

    def metrics(self, phase, seen):
        """Per reply token: `kl`, the divergence that is trained on, in nats; `nll`; `agreed`, the share of
        tokens of which both think the same most probable.
        """
        return {key: seen[key] / seen["tokens"] for key in ("loss", "kl", "nll", "agreed") if key in seen}

"""An objective on llmkit's engine: one side of posttraining_peers.py."""

import torch
from posttraining.data import CONTEXT, LR, REFERENCE, SEED, Data, made_up, now, prompts_of, since

from llmkit import registry
from llmkit.data.pack import IGNORED, best_fit, lay, shifted
from llmkit.engine import loop
from llmkit.engine.backend_ddp import Ddp
from llmkit.engine.recipe import Optim, Parallel
from llmkit.models.blocks import initialise
from llmkit.models.decoder import Decoder


class Ours:
    """An objective on llmkit's engine: rows, preparation, counts, micro-batch, clipping, fused AdamW."""

    seed = SEED

    def __init__(self, data: Data, **objective):
        cls = registry.find("objective", objective["name"])
        self.objective, self.data = cls(cls.Settings.model_validate(objective)), data
        with torch.device("meta"):
            nets = self.objective.build(lambda **_: Decoder(data.net))
        if "reference" in nets:
            initialise(nets["reference"], REFERENCE)
        optims = {"model": Optim(lr=LR, weight_decay=0.0)}
        parallel = Parallel(backend="ddp", precision="fp32", compile="off")
        self.backend, self.done = Ddp(self.objective, nets, optims, parallel, SEED), 0

    def batch(self, number: int) -> dict:
        raise NotImplementedError

    def add(self, *seen):
        """Nobody listens to what is measured."""

    watch = add

    def step(self, number: int) -> None:
        (phase,) = self.objective.phases
        group = self.backend.prepare(self.backend.place([self.batch(number)]), number)
        for update in range(phase.updates):
            self.backend.begin(phase, number, 1.0)
            rows = self.objective.rows(phase, update, group)
            loop.take_update(self.objective, phase, self.backend, rows, self, self)

    def run(self, count: int) -> list[tuple[float, float]]:
        out = []
        for _ in range(count):
            start = now()
            self.step(self.done)
            self.done += 1
            out.append(since(start))
        return out

    def first_loss(self) -> float:
        (phase,) = self.objective.phases
        (batch,) = self.backend.prepare([self.batch(0)], 0)
        with torch.no_grad():
            total = self.objective.count(phase, batch)
            return float(self.objective.loss(phase, self.backend.nets, batch, total)[0])


class OurSft(Ours):
    def batch(self, number):
        texts = self.data.texts[number % len(self.data.texts)]
        documents = [document(prompt, reply) for prompt, reply in texts]
        rows = best_fit([len(tokens) for tokens, _ in documents], CONTEXT)
        return lay([[documents[i] for i in row] for row in rows], CONTEXT, self.data.tokenizer.pad)


class OurDpo(Ours):
    def batch(self, number):
        pairs = self.data.pairs[number % len(self.data.pairs)]
        laid = [[document(prompt, chosen), document(prompt, rejected)] for prompt, chosen, rejected in pairs]
        rows = best_fit([sum(len(tokens) for tokens, _ in pair) for pair in laid], CONTEXT)
        valid = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.bool)
        for b, row in enumerate(rows):
            valid[b, : len(row)] = True
        flat = [[side for i in row for side in laid[i]] for row in rows]
        return {**lay(flat, CONTEXT, self.data.tokenizer.pad), "valid": valid}


class OurGrpo(Ours):
    def batch(self, number):
        return self.data.prompts.batch([(i, i) for i in prompts_of(number, self.data)])

    def first_loss(self) -> float:
        """The mean log-probability of made-up replies: the loss of an untaught net is 0."""
        prompts, replies = made_up(self.data)
        rows = [[document(p, r)] for p, r in zip(prompts, replies, strict=True)]
        batch = lay(rows, CONTEXT, self.data.tokenizer.pad)
        with torch.no_grad():
            nll = self.backend.nets["model"].nll(batch["tokens"], batch["segments"], batch["labels"])
        return float(-nll.sum() / (batch["labels"] != IGNORED).sum())


def document(prompt: list[int], reply: list[int]):
    """(tokens, labels) of a prompt and its reply, of which only the reply is learnt; as in data/sets."""
    tokens, labels = shifted(prompt + reply, [0] * len(prompt) + [1] * len(reply))
    return tokens[:-1], labels[:-1]  # nothing is predicted from the last token

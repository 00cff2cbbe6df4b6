"""TRL's trainers on the exported net: the other side of posttraining_peers.py."""

from pathlib import Path

import datasets
import torch
import transformers
from posttraining.data import (
    BETA,
    LONGEST,
    LR,
    PAIRS,
    PROMPTS,
    SAMPLES,
    SEED,
    TEXTS,
    Data,
    Step,
    made_up,
    now,
    prompts_of,
    since,
)
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from llmkit.data.pack import IGNORED


class Theirs:
    """A trainer of TRL on the exported net; a new one every round, which goes on with the same weights."""

    def __init__(self, folder: Path, data: Data, reference: Path | None = None):
        load = transformers.AutoModelForCausalLM.from_pretrained
        self.net = load(folder, dtype=torch.float32)
        self.reference = load(reference, dtype=torch.float32) if reference else None
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.data, self.done = data, 0

    def trainer(self, first: int, count: int):
        """A trainer that takes the steps from number `first` on, and their texts alone."""
        raise NotImplementedError

    def arguments(self, count: int, rows: int) -> dict:
        return {
            "output_dir": "/tmp/posttraining_peers", "max_steps": count, "use_cpu": True, "bf16": False,
            "per_device_train_batch_size": rows, "gradient_checkpointing": False, "report_to": [],
            "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "learning_rate": LR,
            "lr_scheduler_type": "constant", "optim": "adamw_torch_fused", "adam_beta2": 0.95,
            "weight_decay": 0.0, "max_grad_norm": 1.0, "seed": SEED,
        }  # fmt: skip

    def run(self, count: int) -> list[tuple[float, float]]:
        out = []

        class Clock(transformers.TrainerCallback):
            """From the end of one step to the end of the next, so that the collator counts."""

            def on_train_begin(self, *args, **kwargs):
                self.start = now()

            def on_step_end(self, *args, **kwargs):
                out.append(since(self.start))
                self.start = now()

        trainer = self.trainer(self.done, count)
        trainer.add_callback(Clock())
        trainer.train()
        self.done += count
        return out

    def first_loss(self) -> float:
        trainer = self.trainer(0, 1)
        batch = next(iter(trainer.get_train_dataloader()))
        with torch.no_grad():
            return float(trainer.compute_loss(trainer.model, batch, **self.counted(batch)))

    def counted(self, batch) -> dict:
        return {}

    def some(self, of: list[Step], first: int, count: int) -> list:
        return [item for i in range(first, first + count) for item in of[i % len(of)]]


class TheirSft(Theirs):
    def trainer(self, first, count):
        rows = [
            {"input_ids": prompt + reply, "labels": [IGNORED] * len(prompt) + reply}
            for prompt, reply in self.some(self.data.texts, first, count)
        ]
        arguments = SFTConfig(
            **self.arguments(count, TEXTS), train_sampling_strategy="sequential", shuffle_dataset=False,
            dataset_kwargs={"skip_prepare_dataset": True}, max_length=None,
        )  # fmt: skip
        made = datasets.Dataset.from_list(rows)
        return SFTTrainer(self.net, arguments, train_dataset=made, processing_class=self.tokenizer)

    def counted(self, batch):
        return {"num_items_in_batch": (batch["labels"][:, 1:] != IGNORED).sum()}


class Prepared(DPOTrainer):
    """TRL's trainer on token ids as they are."""

    def _prepare_dataset(self, dataset, *args):
        return dataset


class TheirDpo(Theirs):
    def trainer(self, first, count):
        keys = ("prompt_ids", "chosen_ids", "rejected_ids")
        rows = [dict(zip(keys, pair, strict=True)) for pair in self.some(self.data.pairs, first, count)]
        arguments = DPOConfig(
            **self.arguments(count, PAIRS), train_sampling_strategy="sequential", beta=BETA, max_length=None
        )
        made = datasets.Dataset.from_list(rows)
        return Prepared(
            self.net, self.reference, arguments, train_dataset=made, processing_class=self.tokenizer
        )


class TheirGrpo(Theirs):
    def trainer(self, first, count):
        numbers = [n for i in range(first, first + count) for n in prompts_of(i, self.data)]
        asked = self.data.prompts.batch([(n, n) for n in numbers])["prompts"]
        rows = [{"prompt": p.record["messages"][:-1], "answer": p.record["answer"]} for p in asked]
        found = self.tokenizer.apply_chat_template(rows[0]["prompt"], add_generation_prompt=True)
        assert found["input_ids"] == asked[0].ids
        arguments = GRPOConfig(
            **self.arguments(count, PROMPTS * SAMPLES), num_generations=SAMPLES, shuffle_dataset=False,
            max_completion_length=LONGEST, temperature=1.0, top_k=0, top_p=1.0, beta=0.0, loss_type="dapo",
            steps_per_generation=1,
        )  # fmt: skip
        made = datasets.Dataset.from_list(rows)
        return GRPOTrainer(self.net, exact, arguments, train_dataset=made, processing_class=self.tokenizer)

    def first_loss(self) -> float:
        prompts, replies = made_up(self.data)
        found = []
        for prompt, reply in zip(prompts, replies, strict=True):
            with torch.no_grad():
                logits = self.net(torch.tensor([prompt + reply])).logits[0, len(prompt) - 1 : -1]
            found.append(logits.log_softmax(-1).gather(1, torch.tensor(reply)[:, None]))
        return float(torch.cat(found).mean())


def exact(completions, answer, **_) -> list[float]:
    return [float(said[0]["content"] == right) for said, right in zip(completions, answer, strict=True)]

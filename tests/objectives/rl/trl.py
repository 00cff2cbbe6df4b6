"""The same nets and replies given to TRL's trainers: loss and gradient of GRPO's kinds and of RLOO.

trl is no dependency of llmkit; its numbers are stored in trl.json, made by

    pip install --no-deps --target /tmp/trl trl==1.16.0
    PYTHONPATH=.:/tmp/trl python -m tests.objectives.rl.trl > tests/objectives/rl/trl.json

A gradient is stored as its norm and two projections for every parameter.
"""

import contextlib
import json
import types
from collections import defaultdict

import torch

from llmkit.models.blocks import initialise
from llmkit.models.decoder import Decoder, Settings
from llmkit.objectives.phase import keyed
from llmkit.objectives.rl.advantages import grouped
from llmkit.objectives.rl.grpo import Grpo
from llmkit.objectives.rl.rollout import lay

SHAPE = {
    "width": 16,
    "layers": 2,
    "heads": 2,
    "kv_heads": 1,
    "vocab_size": 29,
    "context": 16,
    "init_std": 0.3,
}
LONGEST = 6
PROMPT = 3
LENGTHS = (2, 6, 4, 3, 5, 6)
CASES = {
    "grpo": {"loss": "grpo", "kl": 0.1},
    "bnpo": {"loss": "bnpo", "kl": 0.1, "kl_corrected": False},
    "dr_grpo": {"loss": "dr_grpo", "kl": 0.0},
    "dapo": {"loss": "dapo", "clip_high": 0.28},
    "gspo": {"loss": "grpo", "ratio": "sequence_mean", "kl": 0.1},
    "rloo": {"loss": "grpo", "ratio": "sequence", "advantage": "rloo"},
}


def net() -> Decoder:
    return initialise(Decoder(Settings(**SHAPE)), seed=5)


def given() -> dict[str, torch.Tensor]:
    """Six replies to two prompts with rewards; old and reference policies are the net's, disturbed."""
    generator = keyed("replies")
    ids = torch.randint(4, 29, (6, PROMPT + LONGEST), generator=generator).tolist()
    rows = lay([(row[:PROMPT], row[PROMPT : PROMPT + n]) for row, n in zip(ids, LENGTHS)], 0)
    with torch.no_grad():
        nll = net().nll(rows["tokens"], rows["segments"], rows["labels"])
    for key in ("old_nll", "reference_nll"):
        noise = 0.4 * torch.randn(6, SHAPE["context"], generator=keyed(key))  # however wide the rows are
        rows[key] = nll + noise[:, : nll.shape[1]] * (rows["labels"] >= 0)
    rows["reward"] = torch.tensor([1.0, 0.0, 0.2, 0.5, 0.9, 0.1])
    for key in ("valid", "ended"):
        rows[key] = torch.ones(6, dtype=torch.bool)
    return rows | {key: torch.ones(6) for key in ("length", "repeated")} | {"failed": torch.tensor(0.0)}


def numbers(loss, named) -> dict:
    """The loss, and [norm, projection, projection] of every parameter's gradient."""
    out = {"loss": float(loss.detach())}
    for name, p in named:
        directions = [torch.randn(p.shape, generator=keyed(name, i)) for i in range(2)]
        out[name] = [float(p.grad.norm()), *(float((p.grad * d).sum()) for d in directions)]
    return out


def away(found: dict, stored: dict) -> tuple[float, float]:
    """How far a loss is from the stored one, and its gradient, over the norm of the stored one."""
    assert found.keys() == stored.keys()
    parameters = [key for key in stored if key != "loss"]
    norm = sum(stored[key][0] ** 2 for key in parameters) ** 0.5
    off = max(abs(a - b) for key in parameters for a, b in zip(found[key], stored[key], strict=True))
    return abs(found["loss"] - stored["loss"]), off / norm


def ours(case: dict) -> dict:
    settings = {"name": "grpo", "samples": 3, "max_new": LONGEST, "rewards": [{"name": "exact"}], **case}
    objective, policy, rows = Grpo(Grpo.Settings.model_validate(settings)), net(), given()
    kind = case.get("advantage", "grpo")
    rows["advantage"] = grouped(kind, rows["reward"], 3)[:, None]
    (phase,) = objective.phases
    loss, _ = objective.loss(phase, {"model": policy}, rows, objective.count(phase, rows))
    loss.backward()
    return numbers(loss, policy.named_parameters())


def theirs(name: str, case: dict) -> dict:
    """TRL's own loss, on transformers' Llama with the same weights."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.rloo_trainer import RLOOTrainer
    from trl.trainer.utils import add_fused_lm_head

    mine = net()
    s = mine.settings
    config = LlamaConfig(
        vocab_size=s.vocab_size, hidden_size=s.width, intermediate_size=s.mlp_dim, num_hidden_layers=s.layers,
        num_attention_heads=s.heads, num_key_value_heads=s.kv_heads, rms_norm_eps=s.norm_eps,
        rope_theta=s.rope_theta, tie_word_embeddings=s.tie, max_position_embeddings=s.context,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    missing, extra = model.load_state_dict(
        {f"model.{k}": v for k, v in mine.state_dict().items()}, strict=False
    )
    assert not set(missing) - {"lm_head.weight"}
    assert not extra
    add_fused_lm_head(model, temperature=1.0, outputs=("log_probs", "entropy"))
    rows = given()
    reply = slice(PROMPT, PROMPT + LONGEST)
    said = slice(PROMPT - 1, PROMPT + LONGEST - 1)
    mask = (rows["labels"][:, said] >= 0).long()
    old, reference = -rows["old_nll"][:, said], -rows["reference_nll"][:, said]
    inputs = {
        "prompt_ids": rows["tokens"][:, :PROMPT], "prompt_mask": torch.ones(6, PROMPT, dtype=torch.long),
        "completion_ids": rows["tokens"][:, reply], "completion_mask": mask,
        "advantages": grouped(case.get("advantage", "grpo"), rows["reward"], 3),
        "old_per_token_logps": old, "ref_per_token_logps": reference, "old_logps": (old * mask).sum(1),
        "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    cls = RLOOTrainer if name == "rloo" else GRPOTrainer
    trainer = cls.__new__(cls)
    trainer.model = model
    trainer.accelerator = types.SimpleNamespace(
        num_processes=1, gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, reduction: x,
        unwrap_model=lambda m, **_: m, sync_gradients=True, is_main_process=False,
        autocast=contextlib.nullcontext,
    )  # fmt: skip
    trainer.args = types.SimpleNamespace(
        delta=None, use_bias_correction_kl=case.get("kl_corrected", True), steps_per_generation=1,
    )  # fmt: skip
    facts = {
        "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "use_vllm": False,
        "importance_sampling_level": "sequence" if case.get("ratio") else "token",
        "beta": case.get("kl", 0.0), "loss_type": case["loss"], "epsilon_low": 0.2,
        "epsilon_high": case.get("clip_high", 0.2), "max_completion_length": LONGEST, "temperature": 1.0,
        "current_gradient_accumulation_steps": 1, "aux_loss_enabled": False, "_entropy_bonus_enabled": False,
        "model_kwarg_keys": set(), "use_liger_kernel": False,
        "_metrics": defaultdict(lambda: defaultdict(list)),
    }  # fmt: skip
    for key, value in facts.items():
        setattr(trainer, key, value)
    model.train()
    loss = trainer._compute_loss(model, inputs)
    loss.backward()
    named = [(key.removeprefix("model."), p) for key, p in model.named_parameters()]
    return numbers(loss, named)


if __name__ == "__main__":
    with contextlib.redirect_stdout(None):
        found = {name: theirs(name, case) for name, case in CASES.items()}
    print(json.dumps(found).replace("}, ", "},\n"))

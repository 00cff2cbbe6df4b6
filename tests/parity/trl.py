"""The same nets and texts given to TRL's trainers: loss and gradient of SFT, reward models and preferences.

trl is no dependency of llmkit; its numbers are stored in trl.json, made by

    pip install --no-deps --target /tmp/trl trl==1.16.0
    PYTHONPATH=.:/tmp/trl python -m tests.parity.trl > tests/parity/trl.json

TRL gets one text a row, padded; ours are packed. A gradient is stored as in tests/objectives/rl/trl.py.
"""

import contextlib
import json
import types
from collections import defaultdict

import numpy as np
import torch

from llmkit import registry
from llmkit.data.pack import IGNORED, lay
from llmkit.models.blocks import initialise
from llmkit.models.decoder import Decoder, Settings
from llmkit.models.heads import ScoreNet
from llmkit.objectives.phase import keyed
from tests.objectives.rl.trl import SHAPE, numbers

POLICY, REFERENCE = 5, 10
"""Seeds of the nets; with these the KL of KTO is positive, and so does something."""
PROMPT = 3
LENGTHS = ((4, 3), (2, 6), (5, 2))
"""Tokens of the chosen and the rejected reply of each pair."""
ROWS = ((0, 1), (2,))
"""Which pairs share a row of ours."""
WIDE = 30
MARGIN = (0.3, 0.0, 1.2)
GOOD = (True, False, False, True, False, True)

CASES = {
    "sft": {"name": "sft"},
    "reward": {"name": "reward"},
    "reward_margin": {"name": "reward", "margin": 1.0, "centering": 0.01},
    "dpo": {"name": "dpo"},
    "ipo": {"name": "dpo", "loss": "ipo"},
    "hinge": {"name": "dpo", "loss": "hinge", "beta": 0.7},
    "robust": {"name": "dpo", "loss": "robust", "label_smoothing": 0.1},
    "exo_pair": {"name": "dpo", "loss": "exo_pair", "label_smoothing": 0.1},
    "sigmoid_norm": {"name": "dpo", "loss": "sigmoid_norm", "beta": 5.0},
    "forward_kl": {"name": "dpo", "divergence": "forward_kl"},
    "js": {"name": "dpo", "divergence": "js"},
    "alpha": {"name": "dpo", "divergence": "alpha", "alpha": 0.3},
    "ipo_js": {"name": "dpo", "loss": "ipo", "divergence": "js"},
    "kto": {"name": "kto", "beta": 0.5, "desirable_weight": 1.3},
    "apo_zero": {"name": "kto", "loss": "apo_zero", "beta": 0.5, "undesirable_weight": 0.8},
    "orpo": {"name": "orpo", "beta": 0.3},
    "cpo": {"name": "cpo"},
    "cpo_smoothed": {"name": "cpo", "label_smoothing": 0.2, "sft_weight": 0.4},
    "cpo_hinge": {"name": "cpo", "loss": "hinge", "beta": 0.3},
    "cpo_ipo": {"name": "cpo", "loss": "ipo"},
    "simpo": {"name": "simpo", "gamma": 0.7},
    "cpo_simpo": {"name": "simpo", "sft_weight": 1.0},
}


def net(seed: int, head: str = "lm"):
    decoder = Decoder(Settings(**{**SHAPE, "context": WIDE}))
    return initialise(ScoreNet(decoder) if head == "score" else decoder, seed)


def texts() -> list[list[int]]:
    """chosen, rejected, chosen, ...: three pairs, of which both texts begin with the pair's prompt."""
    out = []
    for pair, lengths in enumerate(LENGTHS):
        prompt = torch.randint(4, 29, (PROMPT,), generator=keyed("prompt", pair)).tolist()
        for side, length in enumerate(lengths):
            out.append(prompt + torch.randint(4, 29, (length,), generator=keyed(pair, side)).tolist())
    return out


def lent() -> list[list[int]]:
    """Every prompt with the reply of the text after the next, which has another prompt."""
    all_ = texts()
    return [text[:PROMPT] + all_[(i + 2) % len(all_)][PROMPT:] for i, text in enumerate(all_)]


# ---- ours --------------------------------------------------------------------------------------------------


def packed(documents: list[list[int]], rows) -> dict[str, torch.Tensor]:
    """Rows of the documents with these numbers, labelled on what is behind the prompt."""

    def document(ids):
        labels = np.array([*([IGNORED] * (PROMPT - 1)), *ids[PROMPT:], IGNORED])
        return np.array(ids), labels

    return lay([[document(documents[i]) for i in row] for row in rows], WIDE, pad=0)


def batch(name: str) -> dict[str, torch.Tensor]:
    """What the objective `name` reads."""
    all_, rows = texts(), [[2 * p + side for p in row for side in (0, 1)] for row in ROWS]
    if name == "sft":
        return packed(all_, [[0, 2], [4]])
    out = packed(all_, rows)
    valid = torch.tensor([[True, True], [True, False]])
    if name == "kto":
        other = {f"lent_{key}": value for key, value in packed(lent(), rows).items()}
        there = valid.repeat_interleave(2, 1)
        good = torch.zeros(2, 4, dtype=torch.bool)
        good[there] = torch.tensor(GOOD)
        return {**out, **other, "valid": there, "desirable": good}
    lengths = [[len(all_[i]) for i in row] for row in rows]
    ends = torch.zeros(2, 2, 2, dtype=torch.long)
    margin = torch.zeros(2, 2)
    for b, row in enumerate(ROWS):
        ends[b, : len(row)] = torch.tensor(np.cumsum(lengths[b]) - 1).view(-1, 2)
        margin[b, : len(row)] = torch.tensor([MARGIN[p] for p in row])
    return {**out, "valid": valid, "margin": margin, "ends": ends}


def ours(case: dict) -> dict:
    cls = registry.find("objective", case["name"])
    objective = cls(cls.Settings.model_validate(case))
    nets = {"model": net(POLICY, "score" if case["name"] == "reward" else "lm"), "reference": net(REFERENCE)}
    (phase,) = objective.phases
    (ready,) = objective.prepare([batch(case["name"])], nets, lambda sums: sums, 0)
    loss, _ = objective.loss(phase, nets, ready, objective.count(phase, ready))
    loss.backward()
    return numbers(loss, ((n.removeprefix("trunk."), p) for n, p in nets["model"].named_parameters()))


# ---- theirs ------------------------------------------------------------------------------------------------


def llama(mine, cls):
    """transformers' twin of one of our nets."""
    from transformers import LlamaConfig

    s = mine.settings
    config = LlamaConfig(
        vocab_size=s.vocab_size, hidden_size=s.width, intermediate_size=s.mlp_dim, num_hidden_layers=s.layers,
        num_attention_heads=s.heads, num_key_value_heads=s.kv_heads, rms_norm_eps=s.norm_eps,
        rope_theta=s.rope_theta, tie_word_embeddings=s.tie, max_position_embeddings=s.context,
        num_labels=1, pad_token_id=0,
    )  # fmt: skip
    model = cls(config)
    state = {k.removeprefix("trunk."): v for k, v in mine.state_dict().items()}
    state = {k if k.startswith("score") else f"model.{k}": v for k, v in state.items()}
    missing, extra = model.load_state_dict(state, strict=False)
    assert not set(missing) - {"lm_head.weight"}
    assert not extra
    return model.train()


def padded(documents: list[list[int]], prefix: str = "", width: int = 0) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask, completion_mask, one document a row."""
    width = width or max(map(len, documents))
    ids, there, reply = (torch.zeros(len(documents), width, dtype=torch.long) for _ in range(3))
    for i, document in enumerate(documents):
        ids[i, : len(document)] = torch.tensor(document)
        there[i, : len(document)] = 1
        reply[i, PROMPT : len(document)] = 1
    out = {"input_ids": ids, "attention_mask": there, "completion_mask": reply}
    return {prefix + key: value for key, value in out.items()}


def trainer(cls, model, **facts):
    """A trainer of TRL without its constructor, which wants a data set and a place to write to."""
    made = cls.__new__(cls)
    made.model = model
    made.accelerator = types.SimpleNamespace(
        num_processes=1, device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x,
        reduce=lambda x, reduction: x, unwrap_model=lambda m, **_: m, parallelism_config=None,
    )  # fmt: skip
    same = {
        "aux_loss_enabled": False, "_metrics": defaultdict(lambda: defaultdict(list)), "_tp_size": 1,
        "_total_train_tokens": 0, "precompute_ref_logps": False, "is_encoder_decoder": False,
        "compute_loss_func": None, "label_smoother": None, "ld_alpha": None, "use_weighting": False,
    }  # fmt: skip
    for key, value in (same | facts).items():
        setattr(made, key, value)
    return made


def theirs(case: dict) -> dict:
    """TRL's own loss of the same texts, on transformers' Llama with the same weights."""
    loss, model = globals()[f"_{FAMILY.get(case['name'], case['name'])}"](case)
    loss.backward()
    return numbers(loss, ((n.removeprefix("model."), p) for n, p in model.named_parameters()))


FAMILY = {"simpo": "cpo"}


def _causal(seed: int):
    from transformers import LlamaForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    model = llama(net(seed), LlamaForCausalLM)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    return model


def _sft(case):
    from trl.trainer.sft_trainer import SFTTrainer

    model = _causal(POLICY)
    rows = padded(texts()[::2])
    reply = rows.pop("completion_mask")
    inputs = {**rows, "labels": rows["input_ids"].masked_fill(reply == 0, IGNORED)}
    args = types.SimpleNamespace(loss_type="nll", average_tokens_across_devices=True, max_length=None)
    made = trainer(SFTTrainer, model, args=args, get_tp_size=lambda: 1)
    return made.compute_loss(model, inputs, num_items_in_batch=reply.sum()), model


def _reward(case):
    from transformers import LlamaForSequenceClassification
    from trl.trainer.reward_trainer import RewardTrainer

    model = llama(net(POLICY, "score"), LlamaForSequenceClassification)
    inputs = padded([*texts()[::2], *texts()[1::2]])
    del inputs["completion_mask"]
    args = types.SimpleNamespace(center_rewards_coefficient=case.get("centering"))
    if case.get("margin"):
        inputs["margin"] = torch.tensor(MARGIN)
    return trainer(RewardTrainer, model, args=args).compute_loss(model, inputs), model


def _dpo(case):
    from trl.trainer.dpo_trainer import DPOTrainer

    model, kinds = _causal(POLICY), {"js": "js_divergence", "alpha": "alpha_divergence"}
    kind = case.get("divergence", "reverse_kl")
    facts = {
        "ref_model": _causal(REFERENCE), "beta": case.get("beta", 0.1),
        "loss_types": [case.get("loss", "sigmoid")],
        "loss_weights": [1.0], "label_smoothing": case.get("label_smoothing", 0.0),
        "f_divergence_type": kinds.get(kind, kind), "f_alpha_divergence_coef": case.get("alpha", 0.5),
        "args": types.SimpleNamespace(gradient_checkpointing_kwargs=None),
    }  # fmt: skip
    inputs = padded([*texts()[::2], *texts()[1::2]])
    return trainer(DPOTrainer, model, **facts)._compute_loss(model, inputs, False), model


def _kto(case):
    from trl.trainer.kto_trainer import KTOTrainer

    model = _causal(POLICY)
    facts = {
        "ref_model": _causal(REFERENCE), "beta": case["beta"],
        "loss_type": "apo_zero_unpaired" if case.get("loss") else "kto",
        "calculate_KL": not case.get("loss"), "desirable_weight": case.get("desirable_weight", 1.0),
        "undesirable_weight": case.get("undesirable_weight", 1.0),
        "args": types.SimpleNamespace(gradient_checkpointing_kwargs=None),
    }  # fmt: skip
    inputs = {**padded(texts()), **padded(lent(), "KL_"), "label": torch.tensor(GOOD)}
    return trainer(KTOTrainer, model, **facts)._compute_loss(model, inputs, False), model


def _concatenated() -> dict[str, torch.Tensor]:
    """What ORPO's and CPO's collators make: labels are the reply's ids, of both texts of a pair."""
    out = {}
    for side, documents in (("chosen", texts()[::2]), ("rejected", texts()[1::2])):
        rows = padded(documents)
        reply = rows.pop("completion_mask")
        rows["labels"] = rows["input_ids"].masked_fill(reply == 0, IGNORED)
        out |= {f"{side}_{key}": value for key, value in rows.items()}
    return out


def _orpo(case):
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    model = _causal(POLICY)
    made = trainer(ORPOTrainer, model, beta=case["beta"], padding_value=0)
    return made.get_batch_loss_metrics(model, _concatenated())[0], model


def _cpo(case):
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    model, simpo = _causal(POLICY), case["name"] == "simpo"
    facts = {
        "beta": case.get("beta", 2.0 if simpo else 0.1), "pad_token_id": 0, "alpha": 0.0,
        "loss_type": "simpo" if simpo else case.get("loss", "sigmoid"),
        "simpo_gamma": case.get("gamma", 0.5), "label_smoothing": case.get("label_smoothing", 0.0),
        "cpo_alpha": case.get("sft_weight", 0.0 if simpo else 1.0),
    }  # fmt: skip
    return trainer(CPOTrainer, model, **facts).get_batch_loss_metrics(model, _concatenated())[0], model


if __name__ == "__main__":
    with contextlib.redirect_stdout(None):
        found = {name: theirs(case) for name, case in CASES.items()}
    print(json.dumps(found).replace("}, ", "},\n"))

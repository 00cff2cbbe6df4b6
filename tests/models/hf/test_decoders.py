"""Decoders of every family, both ways: exported for transformers, and made by transformers and imported."""

from pathlib import Path

import pytest
import torch
import transformers

from llmkit.errors import ConfigError, ExportRefused
from llmkit.models.hf import export, gate, importing, reload
from llmkit.models.hf.export import Export
from tests.nets import random_net

GPT2 = {"positions": "learned", "norm": "layer", "mlp": "gelu", "bias": True, "kv_heads": 4}
YARN = {"kind": "yarn", "factor": 4.0, "original": 32}
NETS = {
    "LlamaForCausalLM, biases": {"bias": True},
    "LlamaForCausalLM, linear": {"rope_scaling": {"kind": "linear", "factor": 2.0}},
    "LlamaForCausalLM, ntk": {"rope_scaling": {"kind": "ntk", "factor": 4.0}},
    "LlamaForCausalLM, yarn": {"rope_scaling": YARN, "tie": False},
    "LlamaForCausalLM, llama3": {
        "rope_scaling": {"kind": "llama3", "factor": 8.0, "original": 64, "fast": 4.0}
    },
    "LlamaForCausalLM, mup": {"mup_width": 12},
    "MistralForCausalLM": {"window": 9},
    "Qwen3ForCausalLM": {"qk_norm": True, "tie": False, "head_dim": 20},
    "Qwen3ForCausalLM, window": {"qk_norm": True, "window": 9},
    "MixtralForCausalLM": {"experts": 4, "mlp_dim": 32, "tie": False},
    "MixtralForCausalLM, window": {"experts": 3, "experts_per_token": 1, "mlp_dim": 32, "window": 9},
    "GPT2LMHeadModel": GPT2,
    "GPT2LMHeadModel, mup": {**GPT2, "mup_width": 24},
    "GPT2LMHeadModel, untied": {**GPT2, "tie": False},
}


def compare(out: Path, net, head: str = "lm") -> dict:
    """What the gate finds when it reads `net` back from `out`, in this process."""
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "prove", lambda folder, original, heldout: kept.append(original) or {})
        found = export.publish(net, None, out, Export(ckpt="-"), None)
    case, tensors = gate.build(kept[0], None)
    return {**found, **gate.verdict(case, reload.examine(out, case, tensors))}


@pytest.mark.parametrize("name", NETS)
def test_a_decoder_is_what_transformers_computes_and_comes_back(tmp_path, name):
    net = random_net(**NETS[name])
    figures = compare(tmp_path, net)
    assert figures["architecture"] == name.partition(",")[0]
    assert figures["max_abs_logit_diff"] <= 5e-5
    again = importing.read(tmp_path).eval()
    tokens = torch.randint(400, (2, 40), generator=torch.Generator().manual_seed(3))
    ours, theirs = (n.logits(n.hidden(tokens)) for n in (random_net(**NETS[name]), again))
    torch.testing.assert_close(ours, theirs, atol=5e-5, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [{"qk_norm": True}, {"experts": 4, "mlp_dim": 32}, GPT2, {"mup_width": 12}, {**GPT2, "mup_width": 12}],
    ids=["qwen3", "mixtral", "gpt2", "mup", "gpt2 mup"],
)
def test_a_reward_model_of_every_family_is_proved_too(tmp_path, changes):
    assert compare(tmp_path, random_net("score", **changes))["max_abs_logit_diff"] <= 5e-5
    again = importing.read(tmp_path).eval()
    tokens = torch.randint(400, (2, 40), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        again.scores(tokens), random_net("score", **changes).scores(tokens), atol=5e-5, rtol=0
    )


SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 90, "max_position_embeddings": 64,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "original_max_position_embeddings": 32,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0,
}  # fmt: skip
FOREIGN = {
    "llama": transformers.LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "mistral": transformers.MistralConfig(**SIZES, sliding_window=7),
    "qwen3": transformers.Qwen3Config(**SIZES, head_dim=12),
    "mixtral": transformers.MixtralConfig(**SIZES, num_local_experts=4),
    "gpt2": transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=90, n_positions=64),
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name", FOREIGN)
def test_a_model_made_by_transformers_is_computed_the_same(tmp_path, name):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(FOREIGN[name]).eval()
    for p in model.parameters():
        p.mul_(4) if p.ndim > 1 else p.add_(0.3 * torch.randn_like(p))
    model.save_pretrained(tmp_path)
    net = importing.read(tmp_path).eval()
    tokens = torch.randint(90, (2, 30))
    ours, theirs = net.logits(net.hidden(tokens)), model(tokens).logits
    assert (ours - theirs).abs().max() <= 5e-5 * max(1.0, theirs.abs().max().item())


def test_layers_of_which_some_alone_have_a_window_are_refused(tmp_path):
    kinds = {"layer_types": ["full_attention", "sliding_attention"], "max_window_layers": 0}
    config = transformers.Qwen3Config(**SIZES, use_sliding_window=True, sliding_window=7, **kinds)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="layer_types = .* is not what the decoder computes"):
        importing.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"logit_cap": 30.0}, "logit_cap=30.0"),
        ({"positions": "sinusoidal"}, "positions=sinusoidal"),
        ({"qk_norm": True, "experts": 4}, "qk_norm=True, experts=4"),
    ],
)
def test_what_no_family_has_is_refused_by_name(tmp_path, changes, says):
    with pytest.raises(ExportRefused, match=says):
        compare(tmp_path, random_net(**changes))


def test_a_foreign_scaling_that_ours_is_not_is_refused(tmp_path):
    config = FOREIGN["llama"].to_dict() | {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}
    with pytest.raises(ConfigError, match="longrope"):
        importing.registry.find("export", "llama").settings(config)

"""Foreign architectures behind our interface: exact, or refused."""

import json

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from llmkit.errors import CheckpointError, ConfigError, TrustError
from llmkit.models.generate import generate
from llmkit.models.hf import net as hub
from llmkit.opened import open_model

SIZES = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
MAKE = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    ),
    "llama3 rope": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, rope_parameters=SCALED | {"original_max_position_embeddings": 16})
    ),
}


@pytest.fixture(params=MAKE)
def foreign(request, tmp_path):
    torch.manual_seed(0)
    model = MAKE[request.param]().eval()
    for p in model.parameters():
        p.data.mul_(4)
    model.save_pretrained(tmp_path)
    return model


@torch.no_grad()
def test_a_net_of_another_architecture_gives_its_own_logits_and_losses(foreign, tmp_path):
    net = open_model(tmp_path, head="lm").net
    tokens = torch.randint(97, (2, 20), generator=torch.Generator().manual_seed(1))
    want = foreign(input_ids=tokens).logits
    assert (net.logits(net.hidden(tokens)) - want).abs().max() <= 5e-5
    labels = tokens.roll(-1, 1)
    labels[:, -1] = -100
    nll = net.nll(tokens, None, labels)
    expected = torch.nn.functional.cross_entropy(want[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert (nll.sum() / 38 - expected).abs() < 1e-5


@torch.no_grad()
def test_it_generates_what_transformers_generates_however_rows_are_padded(foreign, tmp_path):
    net = open_model(tmp_path).net
    prompts = [[5, 6, 7], [1, 2, 3, 4, 5, 6, 7, 8]]
    for prompt, reply in zip(prompts, generate(net, prompts, 8), strict=True):
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        made = foreign.generate(ids, attention_mask=mask, max_new_tokens=8, min_new_tokens=8, do_sample=False)
        assert reply == made[0, len(prompt) :].tolist()


def test_a_net_that_does_more_than_body_and_output_matrix_is_refused(tmp_path):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    model = Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=0.5, pad_token_id=0))
    model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="cannot take it apart"):
        open_model(tmp_path)


def test_hostile_configs_and_adapters_are_refused(tmp_path):
    MAKE["qwen2"]().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"nested": {"auto_map": {"AutoModel": "evil.Model"}}}))
    with pytest.raises(TrustError, match="auto_map"):
        open_model(tmp_path)
    path.write_text(
        json.dumps(config | {"attn_implementation": "evil/kernel", "_attn_implementation": "e/k"})
    )
    made = hub.read_config(path)
    assert "evil" not in json.dumps(made.to_dict())
    path.write_text(json.dumps(config | {"hidden_size": 64}))
    with pytest.raises(CheckpointError, match="mismatched|cannot load"):
        open_model(tmp_path)
    path.write_text(json.dumps(config))
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/base"}')
    with pytest.raises(ConfigError, match="adapter"):
        open_model(tmp_path)


def test_something_that_is_no_language_model_is_one_line(tmp_path):
    MAKE["qwen2"]().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no_such_thing"}))
    with pytest.raises(ConfigError, match="cannot read it") as caught:
        open_model(tmp_path)
    assert "\n" not in str(caught.value)

"""Files of llama.cpp: the numbers that transformers' own loader gives, and one line for what ours is not."""

from pathlib import Path

import numpy as np
import pytest
import torch

from llmkit.errors import CheckpointError, ConfigError, TrustError
from llmkit.models.hf import gguf

writer = pytest.importorskip("gguf")
SIZES = {"heads": 4, "kv": 2, "width": 64, "mlp": 96, "layers": 2, "vocab": 101}


def write(file: Path, tied: bool = True, extra: str | None = None, **facts) -> Path:
    """A Llama of random weights, its matrices quantised to 8 bits, as llama.cpp writes one."""
    s, made = SIZES, writer.GGUFWriter(file, facts.pop("architecture", "llama"))
    made.add_context_length(64)
    made.add_embedding_length(s["width"])
    made.add_block_count(s["layers"])
    made.add_feed_forward_length(s["mlp"])
    made.add_head_count(s["heads"])
    made.add_head_count_kv(s["kv"])
    made.add_layer_norm_rms_eps(1e-5)
    made.add_rope_freq_base(facts.pop("theta", 50000.0))
    made.add_rope_dimension_count(s["width"] // s["heads"])
    made.add_vocab_size(s["vocab"])
    made.add_name("Tiny")
    made.add_license("apache-2.0")
    for key, value in facts.items():
        made.add_string(f"llama.rope.scaling.{key}", value)
    rng, (D, M) = np.random.default_rng(1), (s["width"], s["mlp"])
    kv = D // s["heads"] * s["kv"]
    matrices = {"attn_q": (D, D), "attn_k": (kv, D), "attn_v": (kv, D), "attn_output": (D, D)}
    matrices |= {"ffn_gate": (M, D), "ffn_up": (M, D), "ffn_down": (D, M)}
    kind = writer.GGMLQuantizationType.Q8_0

    def add(name: str, *shape: int) -> None:
        values = rng.normal(size=shape).astype(np.float32) * 0.3
        if len(shape) == 1:
            made.add_tensor(name, values + 1)
        else:
            made.add_tensor(name, writer.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", s["vocab"], D)
    add("output_norm.weight", D)
    if not tied:
        add("output.weight", s["vocab"], D)
    for i in range(s["layers"]):
        for name, shape in matrices.items():
            add(f"blk.{i}.{name}.weight", *shape)
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{i}.{name}.weight", D)
    if extra:
        add(extra, D)
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()
    return file


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_its_logits_are_those_of_transformers_own_loading(tmp_path, tied):
    from transformers import AutoModelForCausalLM

    file = write(tmp_path / "tiny.gguf", tied)
    net, facts = gguf.read(file)
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=file.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokens = torch.randint(101, (2, 30), generator=torch.Generator().manual_seed(1))
    want = theirs(tokens).logits
    assert (net.eval().logits(net.hidden(tokens)) - want).abs().max() <= 5e-5
    assert want.abs().max() > 1
    assert facts["sources"] == {"Tiny": {"licence": "apache-2.0", "origin": "imported tiny.gguf"}}
    net.layers[0].self_attn.q_proj.weight.data = _pairs(net.layers[0].self_attn.q_proj.weight)
    assert (net.logits(net.hidden(tokens)) - want).abs().max() > 1e-2  # as llama.cpp keeps them


def _pairs(weight):
    rows, width = weight.shape
    return weight.view(4, 2, rows // 8, width).transpose(1, 2).reshape(rows, width)


def test_what_ours_is_not_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="is a qwen2; llmkit reads Llamas"):
        gguf.read(write(tmp_path / "a.gguf", architecture="qwen2"))
    with pytest.raises(ConfigError, match=r"llama\.rope\.scaling\.type = 'yarn' is not read"):
        gguf.read(write(tmp_path / "b.gguf", type="yarn"))
    with pytest.raises(ConfigError, match="holds rope_freqs.weight"):
        gguf.read(write(tmp_path / "c.gguf", extra="rope_freqs.weight"))
    with pytest.raises(CheckpointError, match="there is no such file"):
        gguf.read(tmp_path / "d.gguf")
    torn = tmp_path / "e.gguf"
    torn.write_bytes(write(tmp_path / "f.gguf").read_bytes()[:3000])
    with pytest.raises(CheckpointError, match="no sound .gguf file"):
        gguf.read(torn)
    (tmp_path / "g.gguf").write_bytes(b"PK\x03\x04 and more")
    with pytest.raises(TrustError, match="zip archive"):
        gguf.read(tmp_path / "g.gguf")

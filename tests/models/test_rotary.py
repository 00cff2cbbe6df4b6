"""Stretched rotary frequencies are those of transformers."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from llmkit.models.rotary import Scaling, frequencies, stretched_base


def theirs(kind: str, theta: float, **given):
    config = LlamaConfig(
        hidden_size=256, num_attention_heads=4, max_position_embeddings=8192,
        rope_parameters={"rope_type": kind, "rope_theta": theta, **given},
    )  # fmt: skip
    return ROPE_INIT_FUNCTIONS[kind](config, "cpu")


@pytest.mark.parametrize("factor", [2.0, 8.0])
def test_linear_yarn_and_llama3_are_transformers(factor):
    cases = {
        "linear": (Scaling(kind="linear", factor=factor), {"factor": factor}),
        "yarn": (
            Scaling(kind="yarn", factor=factor, original=1024),
            {"factor": factor, "original_max_position_embeddings": 1024, "beta_fast": 32.0, "beta_slow": 1.0},
        ),
        "llama3": (
            Scaling(kind="llama3", factor=factor, original=2048, slow=1.0, fast=4.0),
            {
                "factor": factor, "original_max_position_embeddings": 2048,
                "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            },
        ),
    }  # fmt: skip
    for kind, (scaling, given) in cases.items():
        found, heat = theirs(kind, 500000.0, **given)
        torch.testing.assert_close(frequencies(64, 500000.0, scaling), found, rtol=1e-5, atol=0)
        assert scaling.heat == pytest.approx(heat), kind


def test_ntk_slows_the_slowest_pair_by_the_factor_and_leaves_the_fastest():
    plain, slower = frequencies(64, 1e4), frequencies(64, 1e4, Scaling(kind="ntk", factor=4))
    assert slower[0] == plain[0]
    assert slower[-1].item() == pytest.approx(plain[-1].item() / 4, rel=1e-5)
    assert stretched_base(1e4, 64, 4) > 4e4

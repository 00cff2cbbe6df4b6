"""Beam search writes what transformers writes with the same weights."""

import pytest
import torch
import transformers

from llmkit.models.beam import search
from llmkit.models.encdec import EncDec
from llmkit.models.generate import generate
from llmkit.models.hf.llama import Llama
from llmkit.models.hf.t5 import T5
from tests.nets import random_net, wild

IDS = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
SOURCES = [[5, 6, 7, 8, 1], [9, 3, 1], [11, 12, 13, 14, 15, 16, 1]]
END = 7
"""A token that the decoder writes now and then."""


def theirs_writes(model, prompt: list[int], **options) -> list[int]:
    """What transformers writes after `prompt`, or for it, up to the end marker."""
    ids = torch.tensor([prompt])
    made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **options)[0].tolist()
    made = made[1 if model.config.is_encoder_decoder else len(prompt) :]
    end = options.get("eos_token_id", 1)
    return made[: made.index(end)] if end in made else made


@pytest.fixture(scope="module")
def decoders():
    net = random_net(vocab_size=24)
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**Llama.config(net.settings, "lm", IDS, "float32"))
    )
    theirs.load_state_dict(dict(Llama.give(net)), strict=False)
    return net, theirs.eval()


@pytest.mark.parametrize("beams", [2, 4])
@pytest.mark.parametrize("penalty", [1.0, 0.3])
def test_a_decoder_writes_what_transformers_writes(decoders, beams, penalty):
    net, theirs = decoders
    ours = search(net, SOURCES, 12, beams=beams, stop=[END], length_penalty=penalty)
    assert min(map(len, ours)) < 12, "no text ends, so nothing is said about lengths"
    options = {"num_beams": beams, "length_penalty": penalty, "eos_token_id": END, "max_new_tokens": 12}
    assert ours == [theirs_writes(theirs, prompt, **options) for prompt in SOURCES]


def test_an_encoder_decoder_writes_what_transformers_writes():
    shape = {"width": 16, "layers": 1, "heads": 2, "vocab_size": 24, "context": 32, "tie": True}
    net = wild(EncDec(EncDec.Settings(style="t5", **shape)))
    config = T5.config(net.settings, "seq2seq", {**IDS, "decoder_start_token_id": 0}, "float32")
    theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**config)).eval()
    theirs.load_state_dict(dict(T5.give(net)), strict=False)
    ours = search(net, SOURCES, 12, beams=4, stop=[1], start=[0])
    assert ours == [theirs_writes(theirs, source, num_beams=4, max_new_tokens=12) for source in SOURCES]


def test_one_beam_is_greedy_and_more_find_other_texts(decoders):
    net, _ = decoders
    greedy = generate(net, SOURCES, 12, stop=[END])
    assert search(net, SOURCES, 12, beams=1, stop=[END], length_penalty=0.0) == greedy
    assert search(net, SOURCES, 12, beams=8, stop=[END]) != greedy

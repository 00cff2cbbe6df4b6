"""Masked and two-sided models that transformers computes, behind our interface."""

import pytest
import torch
import transformers

from llmkit.errors import ConfigError
from llmkit.models.generate import generate
from llmkit.models.hf import documents, importing
from llmkit.models.hf import net as hub
from llmkit.opened import open_model

SIZES = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 1,
}  # fmt: skip
T5 = {"vocab_size": 97, "d_model": 32, "d_kv": 8, "d_ff": 80, "num_layers": 2, "num_heads": 4}
MAKE = {
    "roberta": lambda: transformers.RobertaForMaskedLM(transformers.RobertaConfig(**SIZES)),
    "distilbert": lambda: transformers.DistilBertForMaskedLM(
        transformers.DistilBertConfig(vocab_size=97, dim=32, hidden_dim=80, n_layers=2, n_heads=4)
    ),
    "first t5": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(**T5, decoder_start_token_id=0)
    ),
}
SEGMENTS = torch.tensor([[1] * 7 + [2] * 9 + [0] * 4, [1] * 20])


@pytest.fixture(params=MAKE)
def foreign(request, tmp_path):
    torch.manual_seed(0)
    model = MAKE[request.param]().eval()
    model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError):
        importing.read(tmp_path)
    return model


@torch.no_grad()
def test_packed_documents_have_the_logits_and_losses_that_they_have_alone(foreign, tmp_path):
    two_sided = foreign.config.is_encoder_decoder
    opened = open_model(tmp_path, head="masked|seq2seq")
    assert opened.head == ("seq2seq" if two_sided else "masked")
    net, generator = opened.net, torch.Generator().manual_seed(1)
    tokens = torch.randint(2, 97, (2, 20), generator=generator)
    source = {"source": tokens.flip(1), "source_segments": SEGMENTS.flip(1)} if two_sided else {}
    labels = torch.where(SEGMENTS > 0, tokens, -100)
    logits = net.logits(net.hidden(tokens, SEGMENTS, **source))
    nll = net.nll(tokens, SEGMENTS, labels, **source)
    for b, at in ((0, slice(0, 7)), (0, slice(7, 16)), (1, slice(0, 20))):
        inputs = {"input_ids": tokens[b : b + 1, at]}
        if two_sided:
            place = slice(20 - at.stop, 20 - at.start)
            inputs = {
                "input_ids": source["source"][b : b + 1, place],
                "decoder_input_ids": tokens[b : b + 1, at],
            }
        want = foreign(**inputs).logits[0]
        assert (logits[b, at] - want).abs().max() < 1e-4
        expected = torch.nn.functional.cross_entropy(want, tokens[b, at], reduction="none")
        torch.testing.assert_close(nll[b, at], expected, atol=1e-4, rtol=1e-4)
    assert (nll[SEGMENTS == 0] == 0).all()


@torch.no_grad()
def test_a_two_sided_model_writes_what_transformers_writes(tmp_path):
    torch.manual_seed(0)
    model = MAKE["first t5"]().eval()
    model.save_pretrained(tmp_path)
    net = open_model(tmp_path, head="seq2seq").net
    assert net.settings.start == "pad"
    prompts = [[5, 9, 30, 4], [8, 7]]
    ours = generate(net, prompts, 6, start=[0])
    for prompt, written in zip(prompts, ours, strict=True):
        made = model.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False, eos_token_id=None)
        assert made[0, 1:].tolist() == written


def test_a_model_that_does_not_keep_documents_apart_is_refused(tmp_path, monkeypatch):
    torch.manual_seed(0)
    MAKE["roberta"]().save_pretrained(tmp_path)
    everything = lambda segments: {(b, 1): slice(0, segments.shape[1]) for b in range(len(segments))}  # noqa: E731
    monkeypatch.setattr(documents, "documents", everything)
    with pytest.raises(ConfigError, match="llmkit cannot take it apart"):
        hub.read(tmp_path)

"""Encoders and encoder-decoders beside transformers' own, from random weights, loaded both ways."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmkit.errors import CheckpointError, ConfigError, ExportRefused
from llmkit.models.encdec import EncDec
from llmkit.models.encdec import Settings as TwoSided
from llmkit.models.encoder import Encoder
from llmkit.models.encoder import Settings as OneSided
from llmkit.models.hf import export, gate, importing, reload
from llmkit.models.hf.export import Export
from llmkit.opened import open_model
from llmkit.tokenizer.vocabulary import Tokenizer
from tests.nets import wild

BERT = {
    "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 80, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
T5 = {
    "vocab_size": 97, "d_model": 32, "d_kv": 12, "d_ff": 80, "num_layers": 2, "num_decoder_layers": 3,
    "num_heads": 4, "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0,
}  # fmt: skip
BART = {
    "vocab_size": 97, "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 80, "decoder_ffn_dim": 80, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LOCAL = {"num_hidden_layers": 5, "local_attention": 8, "bos_token_id": 1, "eos_token_id": 2}
THETAS = {
    "full_attention": {"rope_type": "default", "rope_theta": 777.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 55.0},
}
FOREIGN = {
    "bert": ("BertForMaskedLM", "BertConfig", BERT),
    "bert, untied": ("BertForMaskedLM", "BertConfig", BERT | {"tie_word_embeddings": False}),
    "modernbert": ("ModernBertForMaskedLM", "ModernBertConfig", BERT | LOCAL),
    "modernbert, untied": (
        "ModernBertForMaskedLM",
        "ModernBertConfig",
        BERT | LOCAL | {"tie_word_embeddings": False, "rope_parameters": THETAS},
    ),
    "t5": ("T5ForConditionalGeneration", "T5Config", T5),
    "t5 v1.1": ("T5ForConditionalGeneration", "T5Config", T5 | {"tie_word_embeddings": False}),
    "bart": ("BartForConditionalGeneration", "BartConfig", BART | {"decoder_start_token_id": 2}),
    "marian": (
        "MarianMTModel",
        "MarianConfig",
        BART | {"decoder_start_token_id": 0, "activation_function": "relu", "scale_embedding": True},
    ),
}


def foreign(folder: Path, name: str, **changes):
    """A random model of transformers' own, far from its initial weights, saved the way transformers does."""
    import transformers

    torch.manual_seed(0)
    model, config, settings = FOREIGN[name]
    net = getattr(transformers, model)(getattr(transformers, config)(**(settings | changes))).eval()
    for p in net.parameters():
        if p.requires_grad and "T5" not in model:  # T5's initial weights are wild enough
            p.data.mul_(4) if p.ndim > 1 else p.data.add_(torch.rand_like(p))
    if "final_logits_bias" in dict(net.named_buffers()):
        net.final_logits_bias.uniform_(-1, 1)
    if name == "t5 v1.1":  # published ones have an output matrix of their own, which 5.x cannot make
        net.lm_head.weight = torch.nn.Parameter(torch.randn(97, 32))
        net.all_tied_weights_keys.pop("lm_head.weight")
    net.save_pretrained(folder)
    return net


def inputs(two_sided: bool):
    """Token ids for both sides, or for one: tokens (2, 40) and the rest by name."""
    generator = torch.Generator().manual_seed(1)
    source, tokens = (torch.randint(0, 97, (2, n), generator=generator) for n in (50, 40))
    return tokens, {"source": source} if two_sided else {}


def theirs(net, tokens, source=None):
    if source is None:
        return net(input_ids=tokens).logits
    return net(input_ids=source, decoder_input_ids=tokens).logits


@torch.no_grad()
@pytest.mark.parametrize("name", FOREIGN)
def test_imported_weights_give_the_logits_of_transformers(tmp_path, name):
    net = foreign(tmp_path / "hub", name)
    tokens, source = inputs(net.config.is_encoder_decoder)
    want = theirs(net, tokens, **source)
    importing.work(tmp_path / "hub", tmp_path / "ours")
    ours = open_model(tmp_path / "ours", head="masked|seq2seq").net
    assert (ours.logits(ours.hidden(tokens, **source)) - want).abs().max() < 5e-5
    assert ours.settings.tie == (name not in ("bert, untied", "modernbert, untied", "t5 v1.1"))


def test_a_t5_that_is_tied_and_not_scaled_is_read_as_it_is(tmp_path):
    """What transformers 5 makes of T5Config(tie_word_embeddings=False), and says on disk in its own words."""
    import transformers

    torch.manual_seed(0)
    net = transformers.T5ForConditionalGeneration(
        transformers.T5Config(**T5, tie_word_embeddings=False)
    ).eval()
    net.save_pretrained(tmp_path / "hub")
    ours = importing.read(tmp_path / "hub")
    assert (ours.settings.tie, ours.settings.scale_output) == (True, False)
    tokens, source = inputs(True)
    with torch.no_grad():
        got = ours.eval().logits(ours.hidden(tokens, **source))
        assert (got - theirs(net, tokens, **source)).abs().max() < 2e-4  # of logits up to 40
    export.publish(ours, None, tmp_path / "out", Export(ckpt="-"), None)
    again = importing.read(tmp_path / "out")
    assert again.settings == ours.settings.model_copy(update={"start": again.settings.start})


SMALL = {"width": 48, "layers": 3, "heads": 4, "vocab_size": 400, "context": 64}
MAKE = {
    "bert": lambda **c: Encoder(OneSided(style="bert", **SMALL, **c)),
    "modernbert": lambda **c: Encoder(OneSided(style="modernbert", **SMALL, window=16, global_every=2, **c)),
    "t5": lambda **c: EncDec(TwoSided(style="t5", **SMALL, decoder_layers=2, head_dim=20, **c)),
    "bart": lambda **c: EncDec(TwoSided(style="bart", **SMALL, decoder_layers=2, init_scale=4.0, **c)),
    "transformer": lambda **c: EncDec(TwoSided(style="transformer", **SMALL, decoder_layers=2, **c)),
}


@pytest.fixture(scope="module")
def heldout() -> str:
    return (Path(__file__).parents[3] / "LICENSE").read_text()[-4000:]


def build(out: Path, net, tokenizer_dir: Path, text: str):
    """The files of an export and the case they are compared with, without the gate's own process."""
    originals = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "prove", lambda folder, original, heldout: originals.append(original) or {})
        patch.setattr(gate, "LINES", 50)
        export.publish(net, Tokenizer.load(tokenizer_dir), out, Export(ckpt="-"), text)
    return gate.build(originals[0], text)


def compare(out: Path, case, tensors) -> dict:
    """The gate's verdict on `out`, reached in this process."""
    return gate.verdict(case, reload.examine(out, case, tensors))


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("name", MAKE)
def test_every_family_is_proved_equal_tied_and_untied(tmp_path, tokenizer_dir, heldout, name, tie):
    case, tensors = build(tmp_path, wild(MAKE[name](tie=tie)), tokenizer_dir, heldout)
    figures = compare(tmp_path, case, tensors)
    assert figures["max_abs_logit_diff"] <= 5e-5
    assert figures["tied"] == tie
    assert (figures["greedy_tokens"] > 0) == ("source" in tensors)
    again = importing.read(tmp_path)
    assert again.settings.model_dump(exclude={"init_scale"}) == MAKE[name](tie=tie).settings.model_dump(
        exclude={"init_scale"}
    )


@pytest.mark.parametrize("name", ["bert", "modernbert", "t5", "bart"])
def test_the_factor_of_mup_goes_into_a_norm(tmp_path, tokenizer_dir, heldout, name):
    net = wild(MAKE[name](mup_width=16, tie=True))
    figures = compare(tmp_path, *build(tmp_path, net, tokenizer_dir, heldout))
    assert figures["max_abs_logit_diff"] <= 5e-5


def test_the_gate_proves_an_encoder_decoder_in_a_process_of_its_own(tmp_path, tokenizer_dir, heldout):
    figures = export.publish(
        wild(MAKE["t5"]()), Tokenizer.load(tokenizer_dir), tmp_path, Export(ckpt="-"), heldout
    )
    assert figures["architecture"] == "T5ForConditionalGeneration"
    assert figures["greedy_mismatches"] == figures["tokenizer_mismatches"] == 0


def change_weights(change):
    def fault(out: Path):
        tensors = load_file(out / "model.safetensors")
        change(tensors)
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})

    return fault


def change_config(**changes):
    def fault(out: Path):
        path = out / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return fault


def swap(one: str, two: str):
    return change_weights(lambda t: t.update({one: t[two].clone(), two: t[one].clone()}))


FAULTS = {
    "queries for keys": (
        "bert",
        swap(
            "bert.encoder.layer.1.attention.self.query.weight",
            "bert.encoder.layer.1.attention.self.value.weight",
        ),
        "first at bert.encoder.layer.1.attention.output.dense",
    ),
    "another head norm": (
        "bert",
        change_weights(lambda t: t["cls.predictions.transform.LayerNorm.weight"].mul_(1.1)),
        "first at cls.predictions.transform",
    ),
    "another window": ("modernbert", change_config(local_attention=8), "first at model.layers.1.attn"),
    "a theta of one dialect": (
        "modernbert",
        change_config(local_rope_theta=33.0),
        "different rotary settings",
    ),
    "layers of one dialect": (
        "modernbert",
        change_config(global_attn_every_n_layers=3),
        "different rotary settings",
    ),
    "gates for values": (
        "t5",
        swap(
            "decoder.block.1.layer.2.DenseReluDense.wi_0.weight",
            "decoder.block.1.layer.2.DenseReluDense.wi_1.weight",
        ),
        "first at decoder.block.1.layer.2.DenseReluDense",
    ),
    "scaled output": ("t5", change_config(scale_decoder_outputs=True), "in the output head"),
    "other buckets": (
        "t5",
        change_config(relative_attention_max_distance=20),
        "first at encoder.block.0.layer.0.SelfAttention",
    ),
    "another start": ("bart", change_config(scale_embedding=True), "first at model.encoder"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_refused_and_located(tmp_path, tokenizer_dir, heldout, fault):
    name, plant, says = FAULTS[fault]
    case, tensors = build(tmp_path, wild(MAKE[name]()), tokenizer_dir, heldout)
    plant(tmp_path)
    with pytest.raises(ExportRefused, match=says):
        compare(tmp_path, case, tensors)


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("bert", {"hidden_act": "relu"}, "hidden_act = 'relu'"),
        ("modernbert", {"norm_bias": True}, "norm_bias = True"),
        (
            "modernbert",
            {"layer_types": ["sliding_attention"] * 5},
            "no regular alternation",
        ),
        ("t5", {"feed_forward_proj": "relu"}, "the first T5's"),
        ("bart", {"decoder_ffn_dim": 96}, "decoder_ffn_dim = 96"),
        ("marian", {"scale_embedding": False}, "scale_embedding = False"),
    ],
)
def test_an_architecture_that_is_not_ours_is_named(tmp_path, name, changes, says):
    foreign(tmp_path, name)
    change_config(**changes)(tmp_path)
    with pytest.raises(ConfigError, match=says):
        importing.read(tmp_path)


def test_two_embeddings_where_ours_has_one_are_refused(tmp_path):
    foreign(tmp_path, "bart", tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match="differs from another tensor that it should be equal to"):
        importing.read(tmp_path)

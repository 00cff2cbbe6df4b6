"""Foreign directories: what is read agrees with transformers, what could run code is not opened."""

import json
import pickle  # noqa: TID251 - only to make what has to be refused
import struct
import zipfile
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from llmkit import trust
from llmkit.errors import CheckpointError, ConfigError, TrustError
from llmkit.models.hf import importing
from llmkit.opened import open_model
from llmkit.tokenizer import frame

SHAPES = {
    "tied": {"tie_word_embeddings": True},
    "grouped": {"num_key_value_heads": 2, "tie_word_embeddings": False},
    "wide heads": {"head_dim": 24, "num_key_value_heads": 1},
    "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 123456.0}},
}


def foreign(folder: Path, head: str = "lm", **changes) -> torch.nn.Module:
    """A random Llama of transformers' own, saved to `folder` the way transformers does."""
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0}
    sizes |= {"initializer_range": 0.3}
    kind = LlamaForCausalLM if head == "lm" else LlamaForSequenceClassification
    if head == "score":
        changes |= {"num_labels": 1}
    net = kind(LlamaConfig(**(sizes | changes))).eval()
    net.save_pretrained(folder)
    return net


def change_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_imported_weights_give_the_logits_of_transformers(tmp_path, shape):
    theirs = foreign(tmp_path / "hub", **SHAPES[shape])
    tokens = torch.randint(0, 97, (2, 40), generator=torch.Generator().manual_seed(1))
    want = theirs(input_ids=tokens).logits
    importing.work(tmp_path / "hub", tmp_path / "ours")
    for ckpt in (tmp_path / "hub", tmp_path / "ours", tmp_path / "ours/checkpoints/step_00000000"):
        net = open_model(ckpt, head="lm").net
        assert (net.logits(net.hidden(tokens)) - want).abs().max() < 5e-5


@torch.no_grad()
def test_a_regression_classifier_is_read_as_a_reward_model(tmp_path):
    theirs = foreign(tmp_path, head="score")
    tokens = torch.randint(1, 97, (3, 20), generator=torch.Generator().manual_seed(1))
    net = open_model(tmp_path, head="score").net
    assert (net.scores(tokens)[:, -1:] - theirs(input_ids=tokens).logits).abs().max() < 5e-5
    with pytest.raises(CheckpointError, match="language model is needed"):
        open_model(tmp_path, head="lm")


def test_the_older_dialect_of_the_rotary_settings_is_read(tmp_path):
    foreign(tmp_path)
    change_config(tmp_path, rope_parameters=None, rope_theta=5000.0)
    assert open_model(tmp_path).net.settings.rope_theta == 5000.0


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, TrustError, "auto_map"),
        ({"_attn_implementation_internal": "evil/kernel"}, TrustError, "_attn_implementation_internal"),
        ({"trust_remote_code": True}, TrustError, "trust_remote_code"),
        ({"rope_parameters": {"_target_": "os.system"}}, TrustError, "_target_"),
        ({"hidden_size": 10**12}, TrustError, "hidden_size"),
        ({"hidden_size": -32}, TrustError, "hidden_size"),
        ({"hidden_size": "32"}, TrustError, "hidden_size"),
        ({"rms_norm_eps": float("nan")}, TrustError, "rms_norm_eps"),
        ({"num_key_value_heads": 3}, ConfigError, "kv_heads"),
        ({"attention_bias": True}, ConfigError, "mlp_bias"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, ConfigError, "rope"),
        ({"model_type": "mamba"}, ConfigError, "model_type"),
        ({"hidden_size": 64}, CheckpointError, "tensors do not fit"),
        ({"num_hidden_layers": 3}, CheckpointError, "found none"),
    ],
)
def test_a_config_that_is_hostile_or_unlike_ours_is_refused_by_its_key(tmp_path, changes, error, says):
    foreign(tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(error, match=says):
        importing.read(tmp_path)


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_is_refused_whatever_its_name_before_anybody_opens_it(tmp_path, name, zipped):
    hub, canary = tmp_path / "hub", tmp_path / "canary"
    foreign(hub)
    (hub / "model.safetensors").unlink()
    if zipped:
        with zipfile.ZipFile(hub / name, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Canary(canary)))
    else:
        (hub / name).write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(TrustError):
        open_model(hub)
    assert not canary.exists()


def test_tensors_that_do_not_fit_are_all_named_in_one_error(tmp_path):
    foreign(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.norm.weight"]
    tensors["model.layers.0.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"].T.contiguous()
    tensors["model.layers.0.input_layernorm.weight"] = torch.ones(32, dtype=torch.int64)
    tensors["model.extra"] = torch.ones(1)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        open_model(tmp_path)
    for part in ("4 tensors", "norm.weight", "[32, 80]", "torch.int64", "extra"):
        assert part in str(caught.value)


def test_a_tied_copy_is_dropped_if_it_is_one_and_refused_if_not(tmp_path):
    foreign(tmp_path, tie_word_embeddings=True)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    open_model(tmp_path)
    tensors["lm_head.weight"] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="ties it to"):
        open_model(tmp_path)


def test_an_index_that_leaves_the_directory_is_refused(tmp_path):
    foreign(tmp_path / "hub")
    (tmp_path / "hub/model.safetensors").rename(tmp_path / "model.safetensors")
    index = {"weight_map": {"model.norm.weight": "../model.safetensors"}}
    (tmp_path / "hub/model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"\.\./model.safetensors"):
        open_model(tmp_path / "hub")


def test_the_licence_of_a_foreign_model_comes_from_its_card(tmp_path):
    foreign(tmp_path / "hub")
    (tmp_path / "hub/README.md").write_text("---\nlicense: apache-2.0\ntags: [x]\n---\n# A model\n")
    assert importing.work(tmp_path / "hub", tmp_path / "ours")["licences"]["hub"]["licence"] == "apache-2.0"
    assert open_model(tmp_path / "ours").lineage["sources"]["hub"]["licence"] == "apache-2.0"


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 66688])
def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path, length):
    row = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", length) + row.ljust(length) + bytes(4))
    assert trust.tensor_header(file)["a"]["shape"] == [1]


def test_a_bert_without_any_head_is_imported_with_its_own_tokenizer(tmp_path, capsys):
    from tokenizers import Tokenizer as Fast
    from tokenizers import models, pre_tokenizers, processors

    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    theirs = transformers.BertModel(transformers.BertConfig(**shape, vocab_size=8)).eval()
    theirs.save_pretrained(tmp_path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "who", "is", "it", "?"]
    fast = Fast(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    fast.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast.add_special_tokens(words[:4])
    fast.enable_padding(length=16)
    fast.enable_truncation(16)
    fast.save(str(tmp_path / "tokenizer.json"))
    roles = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(roles))
    opened = open_model(tmp_path)
    assert "has no head that guesses masked tokens" in capsys.readouterr().err
    ids = torch.tensor([fast.encode("who is it ?").ids[:6]])
    with torch.no_grad():
        expected = theirs(input_ids=ids).last_hidden_state
        torch.testing.assert_close(opened.net.hidden(ids), expected, atol=1e-5, rtol=1e-5)
    assert opened.tokenizer.encode("who is it ?") == [4, 5, 6, 7]
    assert frame.of(opened.tokenizer).two([4], [5, 6]) == [2, 4, 3, 5, 6, 3]

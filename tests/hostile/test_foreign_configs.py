"""Configs of foreign checkpoints are data: allow-listed keys, plain types, and nothing that runs."""

import json
import resource

import pytest

from llmkit import trust
from llmkit.errors import TrustError

FIELDS = {
    "hidden_size": int,
    "rms_norm_eps": (int, float),
    "tie_word_embeddings": bool,
    "architectures": list,
}
SOUND = {"hidden_size": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "transformers_version": "5.0"}


def read(tmp_path, tree):
    path = tmp_path / "config.json"
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return trust.plain_config(path, FIELDS)


def test_only_known_keys_come_through(tmp_path):
    found = read(tmp_path, SOUND | {"_name_or_path": "somewhere"})
    assert found == {"hidden_size": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": True}


RUNS_CODE = {
    "auto_map": {"AutoModel": "modeling.Evil"},
    "trust_remote_code": True,
    "_attn_implementation_internal": "someone/kernel",
    "_target_": "os.system",
    "__class__": "x",
    "custom_pipelines": {"x": {}},
}


@pytest.mark.parametrize("key", RUNS_CODE)
@pytest.mark.parametrize("nest", [lambda t: t, lambda t: {"text_config": t}, lambda t: {"layers": [0, t]}])
def test_a_key_that_makes_loaders_run_code_is_refused_however_deep(tmp_path, key, nest):
    with pytest.raises(TrustError, match=f"the key '{key}' asks to run code"):
        read(tmp_path, SOUND | nest({key: RUNS_CODE[key]}))


def test_a_key_that_asks_for_nothing_is_let_pass(tmp_path):
    assert read(tmp_path, SOUND | {"trust_remote_code": False, "auto_map": {}})


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": "64"},
        {"hidden_size": True},
        {"hidden_size": 64.5},
        {"rms_norm_eps": [1]},
        {"architectures": "x"},
    ],
    ids=str,
)
def test_a_wrong_type_is_refused_with_the_right_one(tmp_path, change):
    with pytest.raises(TrustError, match="it has to be"):
        read(tmp_path, SOUND | change)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_have_to_be_finite(tmp_path, value):
    with pytest.raises(TrustError, match="it has to be finite"):
        read(tmp_path, '{"rms_norm_eps": ' + value + "}")


@pytest.mark.parametrize("text", ["", "[]", "3", "null", "{'a': 1}", '{"a": 1, "a": 2}', "[" * 100_000])
def test_what_is_not_a_mapping_is_refused(tmp_path, text):
    with pytest.raises(TrustError, match=r"config\.json"):
        read(tmp_path, text)


def test_a_huge_file_is_refused_without_reading_it(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open(tmp_path / "config.json", "wb") as file:
        file.truncate(4 << 30)
    with pytest.raises(TrustError, match="are too many"):
        trust.plain_config(tmp_path / "config.json", FIELDS)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a\0b/../../../x", ""])
def test_a_name_stays_inside_or_is_refused(tmp_path, name):
    root = tmp_path / "root"
    root.mkdir()
    if name == "":
        assert trust.inside(root, name) == root.resolve()
        return
    with pytest.raises(TrustError, match="outside of it"):
        trust.inside(root, name)


def test_a_link_is_followed_before_it_is_judged(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("x")
    (root / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(TrustError, match="outside of it"):
        trust.inside(root, "link")

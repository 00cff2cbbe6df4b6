"""Files that pretend to be weights: refused by what they are, before any library sees them."""

import json
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from llmkit import trust
from llmkit.checkpoint import fragments
from llmkit.errors import TrustError


class Canary:
    """Unpickling this makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def pickled(path, canary):
    # written by torch's own saver, old and new format, so that the test needs no banned import
    torch.save(Canary(canary), path, _use_new_zipfile_serialization=False)


def zipped(path, canary):
    torch.save(Canary(canary), path)


def archived(path, canary):
    pickled(path.with_suffix(".pkl"), canary)
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(path.with_suffix(".pkl"), "data.pkl")


DISGUISES = {
    "old torch.save": pickled,
    "new torch.save": zipped,
    "zip with a pickle": archived,
    "7z": lambda path, canary: path.write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(100)),
    "gzip": lambda path, canary: path.write_bytes(b"\x1f\x8b\x08" + bytes(100)),
    "program": lambda path, canary: path.write_bytes(b"\x7fELF" + bytes(100)),
    "script": lambda path, canary: path.write_bytes(b"#!/bin/sh\ntouch canary\n"),
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_code_in_the_clothes_of_weights_is_refused_by_its_first_bytes(tmp_path, disguise):
    path, canary = tmp_path / "model.safetensors", tmp_path / "canary"
    DISGUISES[disguise](path, canary)
    with pytest.raises(TrustError, match="which can run code; llmkit reads weights from safetensors only"):
        trust.tensor_header(path)
    assert not canary.exists()


def test_a_shard_that_was_replaced_by_a_pickle_is_not_opened(tmp_path):
    """Even where the manifest was forged to agree with it."""
    fragments.write(tmp_path, 0, [("m/w", (4,), 0, {"param": torch.ones(4)})])
    fragments.write_index(tmp_path)
    pickled(tmp_path / "rank_00000.safetensors", tmp_path / "canary")
    with pytest.raises(TrustError, match="can run code"):
        fragments.Reader(tmp_path).whole("m")
    assert not (tmp_path / "canary").exists()


def test_an_index_that_points_outside_is_not_followed(tmp_path):
    inside = tmp_path / "step_00000001"
    inside.mkdir()
    fragments.write(inside, 0, [("m/w", (4,), 0, {"param": torch.ones(4)})])
    fragments.write_index(inside)
    index = json.loads((inside / "index.json").read_text())
    (inside / "rank_00000.safetensors").rename(tmp_path / "other.safetensors")
    (inside / "index.json").write_text(json.dumps(index | {"files": ["../other.safetensors"]}))
    with pytest.raises(TrustError, match="outside of it"):
        fragments.Reader(inside).whole("m")


def safetensors(path, header, payload=bytes(16)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + payload)


A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
B = {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}
HEADERS = {
    "not JSON": b"{]",
    "a list": [],
    "bad UTF-8": b'{"\xff": 1}',
    "repeated name": b'{"a": {"dtype": "F32"}, "a": {"dtype": "F32"}}',
    "unknown type": {"a": A | {"dtype": "F99"}, "b": B},
    "overlap": {"a": A, "b": B | {"data_offsets": [4, 12]}},
    "hole": {"a": A, "b": B | {"shape": [1], "data_offsets": [12, 16]}},
    "shape that does not fill its bytes": {"a": A | {"shape": [3]}, "b": B},
    "negative shape": {"a": A | {"shape": [-2]}, "b": B},
    "two negatives": {"a": A | {"shape": [-2, -1]}, "b": B},
    "backwards": {"a": A | {"data_offsets": [8, 0]}, "b": B},
    "beyond the file": {"a": A, "b": B | {"shape": [1 << 40], "data_offsets": [8, 8 + (4 << 40)]}},
    "less than the file": {"a": A},
    "text for a number": {"a": A | {"data_offsets": ["0", "8"]}, "b": B},
    "no entry": {"a": None},
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("case", HEADERS)
def test_an_unsound_header_is_refused(tmp_path, case):
    safetensors(tmp_path / "model.safetensors", HEADERS[case])
    with pytest.raises(TrustError, match="model.safetensors"):
        trust.tensor_header(tmp_path / "model.safetensors")


@pytest.mark.parametrize("length", [1 << 63, 200 << 20, 17])
def test_a_header_longer_than_the_file_is_not_read(tmp_path, length):
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", length) + b"{}" + bytes(8))
    with pytest.raises(TrustError, match="not a safetensors file"):
        trust.tensor_header(tmp_path / "model.safetensors")


@pytest.mark.parametrize("size", [0, 1, 7, 8])
def test_a_file_of_a_few_bytes_is_not_one(tmp_path, size):
    (tmp_path / "model.safetensors").write_bytes(bytes(size))
    with pytest.raises(TrustError):
        trust.tensor_header(tmp_path / "model.safetensors")


@pytest.mark.parametrize("count", [1, 3, 1000])
def test_what_the_library_writes_is_accepted(tmp_path, count):
    save_file({f"t{i}": torch.ones(i % 5, 3) for i in range(count)}, tmp_path / "model.safetensors")
    header = trust.tensor_header(tmp_path / "model.safetensors")
    assert len(header) == count


@pytest.mark.parametrize("length", [0x8002, 0x8003, 0x8004, 0x8005])
def test_a_header_whose_length_looks_like_a_pickle_is_accepted(tmp_path, length):
    """The length is little-endian: 0x0480 bytes begin like protocol 4."""
    length = int.from_bytes(length.to_bytes(2, "big"), "little")
    text = json.dumps({"a": A, "b": B}).encode()
    safetensors(tmp_path / "model.safetensors", text + b" " * (length - len(text)))
    assert set(trust.tensor_header(tmp_path / "model.safetensors")) == {"a", "b"}

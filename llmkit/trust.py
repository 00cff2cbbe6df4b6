"""The only door for foreign files: limits sizes, refuses everything that could run code, keeps paths inside.

    bytes on disk ─► refuse_code (by magic number, whatever the name says)
                 ─► read_json (size, depth, no repeated key)      ─► plain_config (allow-listed keys, types)
                 ─► tensor_header (safetensors, checked by hand)  ─► the safetensors library may open it

Everything here is the standard library: no other package sees the bytes before they have passed.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

from llmkit.errors import TrustError

MAX_JSON_BYTES = 64 << 20
MAX_HEADER_BYTES = 100 << 20
"""The safetensors library's own limit on a header."""

CODE_MAGIC = {
    b"\x80\x02": "a pickle", b"\x80\x03": "a pickle", b"\x80\x04": "a pickle", b"\x80\x05": "a pickle",
    b"PK\x03\x04": "a zip archive (torch.save writes these, with a pickle inside)",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"\x1f\x8b": "a gzip stream",
    b"\x7fELF": "a program",
    b"#!": "a script",
}  # fmt: skip

CODE_KEYS = re.compile(r"^(_target_|auto_map|trust_remote_code|custom_pipelines|__.*__|_\w+_internal)$")
"""Keys that make a loader run code: Hydra's, transformers' (CVE-2026-4372, CVE-2026-5241), Python's."""

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip


def inside(root: Path, name: str) -> Path:
    """The path of `name` under `root`; TrustError if `..`, a link or a leading slash takes it outside."""
    path = (Path(root) / name.replace("\0", "?")).resolve()
    if not path.is_relative_to(Path(root).resolve()):
        raise TrustError(
            f"{root}: names the file {name!r}, which is outside of it; use a directory that you made"
        )
    return path


def refuse_code(path: Path) -> None:
    """TrustError if `path` starts like a file that runs code when it is loaded, whatever its suffix."""
    with open(path, "rb") as file:
        head = file.read(8)
    for magic, kind in CODE_MAGIC.items():
        if head.startswith(magic):
            raise TrustError(
                f"{path}: is {kind}, which can run code; llmkit reads weights from safetensors only"
            )


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Plain data from a JSON file. TrustError if it is too large, too deep, not JSON, or repeats a key."""
    size = Path(path).stat().st_size
    if size > max_bytes:
        raise TrustError(
            f"{path}: {size} bytes are too many (at most {max_bytes}); it is not what it should be"
        )
    try:
        return json.loads(Path(path).read_bytes(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise TrustError(f"{path}: not JSON that llmkit accepts: {error}; get the file again") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return out


def plain_config(path: Path, fields: dict[str, type | tuple[type, ...]]) -> dict[str, Any]:
    """Those keys of a foreign JSON config that `fields` lists, each of its type there; the rest goes.

    Raises TrustError if a key, however deep, asks a loader to run code, a type is wrong, a number infinite.
    """
    tree = read_json(path, max_bytes=1 << 20)
    if not isinstance(tree, dict):
        raise TrustError(f"{path}: a config is a mapping, this is {type(tree).__name__}")
    _refuse_code_keys(tree, str(path))
    out = {key: tree[key] for key in fields if tree.get(key) is not None}
    for key, value in out.items():
        asked: Any = fields[key]
        kinds = asked if isinstance(asked, tuple) else (asked,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise TrustError(
                f"{path}: {key} is {value!r:.80}; it has to be {' or '.join(k.__name__ for k in kinds)}"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise TrustError(f"{path}: {key} is {value}; it has to be finite")
    return out


def _refuse_code_keys(tree: Any, where: str) -> None:
    if isinstance(tree, list):
        for i, item in enumerate(tree):
            _refuse_code_keys(item, f"{where}[{i}]")
    elif isinstance(tree, dict):
        for key, value in tree.items():
            if CODE_KEYS.match(key) and value:
                raise TrustError(
                    f"{where}: the key {key!r} asks to run code; remove it if you know the file is good"
                )
            _refuse_code_keys(value, f"{where}.{key}")


def tensor_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: {tensor: {dtype, shape, data_offsets}}, perhaps "__metadata__".

    Checked: sizes, JSON, known dtypes, ranges that fill the file without hole or overlap.
    """
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        head = file.read(9)
        if head[8:] != b"{":  # asked first: a sound length can look like a pickle's magic (1152 is 80 04)
            refuse_code(path)
        length = int.from_bytes(head[:8], "little")
        if len(head) < 9 or length > min(MAX_HEADER_BYTES, size - 8):
            raise TrustError(f"{path}: not a safetensors file (header of {length} bytes in a file of {size})")
        text = head[8:] + file.read(length - 1)
    try:
        header = json.loads(text, object_pairs_hook=_unique)
        end = _filled({name: row for name, row in header.items() if name != "__metadata__"})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TrustError(f"{path}: not a sound safetensors header: {error}; get the file again") from None
    if end != size - 8 - length:
        raise TrustError(
            f"{path}: holds {size - 8 - length} bytes of tensors, its header says {end}; get it again"
        )
    return header


def _filled(rows: dict[str, dict[str, Any]]) -> int:
    """Where the tensors of a header end, in bytes. ValueError for a hole, an overlap or a wrong size."""
    end = 0
    for (start, stop), name in sorted((row["data_offsets"], name) for name, row in rows.items()):
        count = math.prod(rows[name]["shape"]) * DTYPE_BYTES[rows[name]["dtype"]]
        if start != end or stop - start != count or min(rows[name]["shape"], default=0) < 0:
            raise ValueError(f"{name!r} lies at bytes {start} to {stop}, expected {end} to {end + count}")
        end = stop
    return end

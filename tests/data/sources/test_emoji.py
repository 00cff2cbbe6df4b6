"""Emoji: every tone of one is an image with its own caption, on the same side of the split as the others."""

import io
import json
import tarfile

import numpy as np
from PIL import Image

from llmkit.data import fetch, pictures
from llmkit.data.sources import emoji

ENTRIES = [
    {"unified": "1F44B", "name": "WAVING HAND SIGN", "image": "a.png", "category": "People",
     "skin_variations": {"1F3FF": {"image": "b.png"}, "1F3FB-1F3FD": {"image": "c.png"}}},
    {"unified": "0023", "name": None, "short_name": "hash", "image": "d.png", "category": "Symbols"},
]  # fmt: skip


def test_captions_are_names_and_tones_and_all_tones_have_one_name_for_the_split(tmp_path, monkeypatch):
    path = tmp_path / "emoji.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for number, name in enumerate("abcd"):
            file = io.BytesIO()
            Image.fromarray(np.full((64, 64, 3), 50 * number, np.uint8)).save(file, "png")
            add(archive, f"package/img/twitter/64/{name}.png", file.getvalue())
        add(archive, "package/img/apple/64/a.png", b"not read")
        add(archive, "package/emoji.json", json.dumps(ENTRIES).encode())
    monkeypatch.setattr(fetch, "fetch", lambda package: path)
    found = emoji.Emoji(emoji.Emoji.Settings()).splits()["all"]
    assert found.captions == (
        "hash", "waving hand sign", "waving hand sign, light and medium skin", "waving hand sign, dark skin",
    )  # fmt: skip
    assert found.names == ("0023", *["1F44B"] * 3)
    assert [found.classes[label] for label in found.labels] == ["Symbols", *["People"] * 3]
    assert found.images[:, 0, 0, 0].tolist() == [150, 0, 100, 50]
    split = pictures.split(found, 0.5, "emoji")
    assert {len(part.captions) for part in split.values()} == {1, 3}


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))

"""Images from every kind of source, the same rows for every run, bad ones counted or refused in one line."""

import gzip
import hashlib
import io
import json
import struct
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from llmkit.data import fetch, pictures
from llmkit.data.sets.images import Images
from llmkit.errors import ConfigError, DataError

GREY = np.random.default_rng(0).integers(0, 256, (40, 6, 6), dtype=np.uint8)


def opened(source, split="train", seed=1, **settings) -> Images:
    return Images(Images.Settings(source=str(source), **settings), split, seed)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, images=GREY, labels=np.arange(40) % 4)
    return path


def test_every_image_is_in_one_split_and_the_split_never_moves(archive):
    train, heldout = opened(archive), opened(archive, "heldout", seed=7)
    assert len(train) + len(heldout) == 40
    assert torch.equal(opened(archive, "heldout").images, heldout.images)
    both = torch.cat([train.images, heldout.images]).flatten(1)
    assert len(both.unique(dim=0)) == 40
    assert (train.size, train.channels, train.classes) == (6, 1, 4)


def test_held_out_images_that_are_trained_on_too_are_said(archive, tmp_path, capsys):
    opened(archive, "heldout")
    assert "training images too" not in capsys.readouterr().out
    twice = tmp_path / "twice.npz"
    np.savez(twice, images=np.concatenate([GREY] * 8))
    held = opened(twice, "heldout")
    known = {image.numpy().tobytes() for image in opened(twice).images}
    count = sum(image.numpy().tobytes() in known for image in held.images)
    assert count > 10
    assert f"{count} of {len(held)} held-out images are training images too" in capsys.readouterr().out


def test_a_row_is_the_same_whichever_rows_are_around_it(archive):
    data = opened(archive, flip=True, shift=2)
    together = data.batch([(100, 3), (101, 4), (102, 5)])
    alone = data.batch([(101, 4)])
    assert all(torch.equal(together[key][1:2], alone[key]) for key in alone)
    other = opened(archive, flip=True, shift=2, seed=2).batch([(101, 4)])
    assert other["key"] != alone["key"]


def test_some_rows_are_of_all_classes_the_same_in_every_run(tmp_path):
    for i in range(60):
        save(tmp_path / "abc"[i // 20] / f"{i}.png", np.full((4, 4), i, np.uint8))
    some, again = opened(tmp_path, rows=12), opened(tmp_path, rows=12, seed=5)
    assert len(some) == 12
    assert some.labels.unique().tolist() == [0, 1, 2]
    assert torch.equal(some.images, again.images)
    assert len(opened(tmp_path, rows=1000)) == len(opened(tmp_path))


def test_no_rows_give_one_that_does_not_count(archive):
    batch = opened(archive).batch([])
    assert not batch["valid"].any()
    assert batch["image"].shape == (1, 1, 6, 6)


def test_augmentation_moves_and_mirrors_training_images_only(archive):
    plain, moved = opened(archive), opened(archive, flip=True)
    rows = [(i, i) for i in range(30)]
    before, after = plain.batch(rows)["image"], moved.batch(rows)["image"]
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(before, after)]
    assert 5 < sum(mirrored) < 25
    assert all(m or torch.equal(a, b) for m, a, b in zip(mirrored, before, after))
    heldout = opened(archive, "heldout", flip=True, shift=3)
    assert torch.equal(heldout.batch([(9, 0)])["image"][0], heldout.images[0])


def test_a_folder_of_classes_in_any_mode_and_size(tmp_path, capsys):
    for i in range(6):
        save(tmp_path / "cat" / f"{i}.png", np.full((9, 12), i * 40, np.uint8))
        save(tmp_path / "dog" / f"{i}.jpg", np.full((12, 9, 3), i * 40, np.uint8))
    data = opened(tmp_path, size=8, channels=3)
    assert (data.size, data.channels, data.names) == (8, 3, ("cat", "dog"))
    assert not capsys.readouterr().out


def test_what_cannot_be_used_is_counted(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_PIXELS", 10_000)
    for i in range(4):
        save(tmp_path / f"{i}.png", np.full((8, 8), i, np.uint8))
    (tmp_path / "torn.png").write_bytes((tmp_path / "0.png").read_bytes()[:40])
    (tmp_path / "text.png").write_text("no image")
    save(tmp_path / "bomb.png", np.zeros((101, 100), np.uint8))
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    assert len(opened(tmp_path)) + len(opened(tmp_path, "heldout")) == 4
    said = capsys.readouterr().out
    assert said.count("4 of 8 images are used") == 1
    for part in ("2 cannot be decoded", "1 have more than 10000 pixels", "1 have more than 8 bits a channel"):
        assert part in said


def test_what_is_transparent_is_white(tmp_path):
    glass = np.zeros((6, 6, 4), np.uint8)
    glass[:3] = (200, 0, 0, 255)
    for number in range(2):
        save(tmp_path / f"{number}.png", glass)
    image = opened(tmp_path, heldout_frac=0.5).images[0]
    assert image[:, 0, 0].tolist() == [200, 0, 0]
    assert (image[:, 3:] == 255).all()


def test_captions_of_a_folder_are_words_and_an_image_without_one_is_counted(tmp_path, capsys):
    lines = []
    for number, grey in enumerate(GREY):
        save(tmp_path / "a" / f"{number}.png", grey)
        lines.append(json.dumps({"file_name": f"a/{number}.png", "text": f"number {number % 2}"}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines[1:]))
    both = [opened(tmp_path, split, captions=True) for split in ("train", "heldout")]
    assert sum(map(len, both)) == 39
    assert "39 of 40 images are used; left out: 1 have no caption" in capsys.readouterr().out
    there = {grey.tobytes(): f"{number % 2}" for number, grey in enumerate(GREY)}
    for data in both:
        assert data.words == both[0].words
        assert data.words[0] == "number"
        assert data.classes == 0
        for image, label in zip(data.images, data.labels, strict=True):
            assert [data.words[place - 1] for place in label] == ["number", there[image.numpy().tobytes()]]
    batch = both[0].batch([(0, 1), (1, 2)])
    assert torch.equal(batch["label"], both[0].labels[1:3])


def test_captions_that_are_not_there_are_refused_in_a_line(archive, tmp_path):
    with pytest.raises(ConfigError, match="data.captions: .* has none; set it to false"):
        opened(archive, captions=True)
    save(tmp_path / "folder" / "0.png", GREY[0])
    with pytest.raises(DataError, match="metadata.jsonl: is not there; a line of it is"):
        opened(tmp_path / "folder", captions=True)
    (tmp_path / "folder" / "metadata.jsonl").write_text('{"file_name": "0.png"}')
    with pytest.raises(DataError, match='metadata.jsonl:1: is no JSON object with "file_name" and "text"'):
        opened(tmp_path / "folder", captions=True)


def test_mixed_sizes_are_refused_unless_a_size_is_set(tmp_path):
    save(tmp_path / "a.png", np.zeros((8, 8), np.uint8))
    save(tmp_path / "b.png", np.zeros((9, 8), np.uint8))
    with pytest.raises(DataError, match=r"images of 2 sizes .*; set data.size"):
        opened(tmp_path)
    assert len(opened(tmp_path, size=8, heldout_frac=0.5)) == 1


def test_mixed_modes_are_refused_unless_channels_are_set(tmp_path):
    save(tmp_path / "a.png", np.zeros((8, 8), np.uint8))
    save(tmp_path / "b.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="1 images are grey and 1 in colour; set data.channels to 1 or 3"):
        opened(tmp_path)
    assert opened(tmp_path, channels=3, heldout_frac=0.5).channels == 3


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": GREY[:1]}, "1 image is too little"),
        ({"images": GREY, "labels": np.arange(40) - 1}, r"labels from -1 to 38; they have to lie in 0\.\.38"),
        ({"images": GREY, "labels": np.arange(39)}, "39 for 40 images"),
        ({"images": GREY, "labels": np.ones(40)}, r"labels are float64 \[40\]"),
        ({"images": GREY.astype(np.float32)}, r"float32 \[40, 6, 6, 1\] is not what images are"),
        ({"pixels": GREY}, "holds no array `images`, but pixels"),
    ],
)
def test_arrays_that_are_no_images_are_refused_in_one_line(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=message) as error:
        opened(tmp_path / "x.npz")
    assert "\n" not in str(error.value)


def test_an_archive_with_a_pickle_inside_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="not an .npz of plain arrays"):
        opened(tmp_path / "x.npz")


def test_an_unknown_set_is_named_with_the_known_ones():
    with pytest.raises(
        ConfigError, match="'fashon' is neither .* known: digits, emoji, fashion-mnist, mnist-5k"
    ):
        opened("fashon")


def idx_files(images, labels) -> tuple[bytes, bytes]:
    boxes = struct.pack(">HBB3I", 0, 8, 3, *images.shape) + images.tobytes()
    digits = struct.pack(">HBBI", 0, 8, 1, len(labels)) + labels.tobytes()
    return gzip.compress(boxes), digits


def test_idx_files_bring_their_own_split(tmp_path):
    for prefix, part in (("train", GREY[:30]), ("t10k", GREY[30:])):
        images, labels = idx_files(part, np.arange(len(part), dtype=np.uint8) % 10)
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(images)
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)
    assert (len(opened(tmp_path)), len(opened(tmp_path, "heldout"))) == (30, 10)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0")
    with pytest.raises(DataError, match="not an idx file"):
        opened(tmp_path, size=6, channels=1)


def test_a_debian_package_is_read_in_place(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as tar:
        info = tarfile.TarInfo("./usr/share/a.txt")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    members = (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.xz", data.getvalue()))
    deb = b"!<arch>\n"
    for name, content in members:
        deb += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content
        deb += b"\n" * (len(content) % 2)
    package = fetch.Package("debian", "a", "1", hashlib.sha256(deb).hexdigest())
    package.folder.mkdir(parents=True)
    (package.folder / "a_1_all.deb").write_bytes(deb)
    assert fetch.read(package, "./usr/share/*") == b"abc"


def test_digits_are_there_without_a_network():
    data = opened("digits")
    assert (data.size, data.channels, data.classes) == (8, 1, 10)
    assert int(data.images.max()) == 255

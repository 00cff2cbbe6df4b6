"""Captions word for word: ids that spell them again, those that do not fit counted, bad sets refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from llmkit.data.sets.captioned import Captioned
from llmkit.data.sets.images import Images
from llmkit.errors import ConfigError, DataError
from llmkit.tokenizer import learnt
from llmkit.tokenizer.vocabulary import Tokenizer

CAPTIONS = [f"the {'even' if i % 2 == 0 else 'odd'} number {i}" for i in range(40)]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def archive(path, captions=CAPTIONS):
    images = np.random.default_rng(0).integers(0, 256, (len(captions), 6, 6), dtype=np.uint8)
    np.savez(path / "x.npz", images=images, captions=captions)
    return str(path / "x.npz")


def opened(source, split="train", **settings) -> Captioned:
    return Captioned(Captioned.Settings(source=source, **settings), split, 1)


def test_a_row_is_an_image_and_the_pieces_of_its_caption(tmp_path):
    data, plain = opened(archive(tmp_path)), Images(Images.Settings(source=archive(tmp_path)), "train", 1)
    tokenizer = Tokenizer.load(data.tokenizer_dir)
    batch = data.batch([(0, 3), (1, 5)])
    assert torch.equal(batch["source"], plain.images[[3, 5]])
    assert batch["tokens"].shape == (2, 8)
    for row, place in enumerate((3, 5)):
        inside = batch["segments"][row] == 1
        tokens, labels = batch["tokens"][row][inside].tolist(), batch["labels"][row][inside].tolist()
        assert tokens[0] == tokenizer.bos
        assert labels == [*tokens[1:], tokenizer.eos]
        assert tokenizer.decode(labels) == data.texts[place]
        assert batch["bytes"][row] == len(data.texts[place])
        assert (batch["labels"][row][~inside] == -100).all()
    nothing = data.batch([])
    assert not nothing["source"].any()
    assert (nothing["labels"] == -100).all()
    assert not opened(archive(tmp_path), blank=True).batch([(0, 3)])["source"].any()


def test_captions_that_are_empty_or_too_long_are_left_out_with_their_images_and_counted(tmp_path):
    captions = [*CAPTIONS[:37], "", "x y z " * 40, "  "]
    data = {split: opened(archive(tmp_path, captions), split) for split in ("train", "heldout")}
    counts = {
        key: sum(d.counts.get(key, 0) for d in data.values())
        for key in ("left_out_empty", "left_out_too_long")
    }
    assert counts == {"left_out_empty": 2, "left_out_too_long": 1}
    assert sum(map(len, data.values())) == 37
    for split, found in data.items():
        plain = Images(Images.Settings(source=archive(tmp_path, captions)), split, 1)
        where = dict(zip(found.texts, found.images, strict=True))
        every = np.load(archive(tmp_path, captions))["images"]
        for text, image in where.items():
            assert np.array_equal(image[0].numpy(), every[captions.index(text)])
        assert len(found) == len(found.texts) == len(found.labels) <= len(plain)
    with pytest.raises(DataError, match=r"no train caption has 1 to 1 tokens; raise data\.seq_len"):
        opened(archive(tmp_path, captions), seq_len=2)


def test_what_belongs_together_is_told_by_the_files_names(tmp_path):
    for i in range(6):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(tmp_path / f"{i}.png")
    lines = [json.dumps({"file_name": f"{i}.png", "said": f"number {i}"}) for i in range(6)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    asked = {"caption_column": "said", "heldout_frac": 0.5}
    found = [opened(str(tmp_path), split, **asked) for split in ("train", "heldout")]
    told = {origin: text for data in found for origin, text in zip(data.origins, data.texts, strict=True)}
    assert told == {f"{i}.png": f"number {i}" for i in range(6)}


def test_other_captions_or_settings_make_another_fingerprint(tmp_path):
    one = opened(archive(tmp_path))
    assert opened(archive(tmp_path)).fingerprint == one.fingerprint
    others = [
        opened(archive(tmp_path), blank=True),
        opened(archive(tmp_path), seq_len=24),
        opened(archive(tmp_path), tokenizer=str(learnt.folder(CAPTIONS, 300))),
        opened(archive(tmp_path, [*CAPTIONS[:-1], "the last"])),
    ]
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_a_tokenizer_is_learnt_once_and_from_training_captions_alone(tmp_path):
    data = [opened(archive(tmp_path), split) for split in ("train", "heldout")]
    assert data[0].tokenizer_dir == data[1].tokenizer_dir
    (folder,) = data[0].tokenizer_dir.parent.iterdir()
    pieces = {Tokenizer.load(folder).decode([i]) for i in range(Tokenizer.load(folder).vocab_size)}
    assert "number" in {piece.strip() for piece in pieces}
    before = (folder / "tokenizer.model").stat().st_mtime_ns
    opened(archive(tmp_path))
    assert (folder / "tokenizer.model").stat().st_mtime_ns == before
    assert str(tmp_path.parent) not in (folder / "spec.yaml").read_text()


def test_captions_of_one_word_or_one_letter_have_a_tokenizer_too():
    for texts in (["cat", "dog"] * 4, ["a"], ["", "\u732b", "\u72ac"]):
        tokenizer = Tokenizer.load(learnt.folder(texts, 1024))
        assert [tokenizer.decode(tokenizer.encode(text)) for text in texts] == texts


def test_a_set_without_captions_is_refused_in_a_line(tmp_path):
    np.savez(tmp_path / "bare.npz", images=np.zeros((4, 6, 6), np.uint8))
    with pytest.raises(
        ConfigError, match=r"data\.captions: .*bare\.npz has none; take a set that has captions"
    ):
        opened(str(tmp_path / "bare.npz"))
    with pytest.raises(DataError, match=r"captions: all 9 of them are empty"):
        opened(archive(tmp_path, [" "] * 10))
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"metadata\.jsonl: is not there"):
        opened(str(tmp_path))

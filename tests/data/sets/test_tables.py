"""Images out of parquet files and of what `datasets` saves: the rows that are there, bad ones counted."""

import io

import datasets
import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from llmkit.data.sets.images import Images
from llmkit.errors import DataError

GREY = np.random.default_rng(0).integers(0, 256, (30, 6, 6), dtype=np.uint8)


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    return file.getvalue()


def written(path, images, **columns):
    """A parquet file with the encoded `images`, as the hub's sets have them, without its metadata."""
    cells = [{"bytes": content, "path": None} for content in images]
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({"image": cells, **columns}), path)
    return path


def opened(source, split="train", **settings) -> Images:
    return Images(Images.Settings(source=str(source), **settings), split, 0)


def test_a_parquet_file_with_texts_for_classes(tmp_path):
    names = ["dog", "ant", "cat"] * 10
    path = written(tmp_path / "x.parquet", map(png, GREY), animal=names)
    both = [opened(path, split, label_column="animal") for split in ("train", "heldout")]
    assert [data.names for data in both] == [("ant", "cat", "dog")] * 2
    assert sum(map(len, both)) == 30
    there = {image.tobytes(): name for image, name in zip(GREY, names, strict=True)}
    for data in both:
        for image, label in zip(data.images, data.labels.tolist(), strict=True):
            assert there[image.numpy().tobytes()] == data.names[label]


def test_a_folder_of_parquet_brings_its_own_split_and_its_classes_are_of_both(tmp_path):
    written(tmp_path / "data" / "train-00000-of-00002.parquet", map(png, GREY[:10]), label=["b"] * 10)
    written(tmp_path / "data" / "train-00001-of-00002.parquet", map(png, GREY[10:20]), label=["c"] * 10)
    written(tmp_path / "data" / "test-00000-of-00001.parquet", map(png, GREY[20:]), label=["a"] * 10)
    train, held = opened(tmp_path), opened(tmp_path, "heldout")
    assert (len(train), len(held), train.names) == (20, 10, ("a", "b", "c"))
    assert torch.equal(held.images[:, 0], torch.from_numpy(GREY[20:]))
    assert (train.labels.tolist(), held.labels.tolist()) == ([1] * 10 + [2] * 10, [0] * 10)


def test_a_column_of_captions_and_a_row_without_one(tmp_path, capsys):
    said = [None, *(f"a {name} cat" for name in ("red", "blue"))] * 10
    path = written(tmp_path / "x.parquet", map(png, GREY), text=said, label=[1] * 30)
    both = [opened(path, split, captions=True) for split in ("train", "heldout")]
    assert sum(map(len, both)) == 20
    assert "left out: 10 have no caption" in capsys.readouterr().out
    there = {image.tobytes(): words for image, words in zip(GREY, said, strict=True)}
    for data in both:
        for image, label in zip(data.images, data.labels, strict=True):
            words = {data.words[place - 1] for place in label.tolist()}
            assert words == set(there[image.numpy().tobytes()].split())
    with pytest.raises(DataError, match="no column says among .*; set data.caption_column"):
        opened(path, captions=True, caption_column="says")


@pytest.mark.parametrize("saved", ["to_parquet", "save_to_disk"])
def test_what_datasets_saves_keeps_the_names_of_classes(tmp_path, saved):
    classes = datasets.ClassLabel(names=["coat", "bag", "hat"])
    features = datasets.Features({"img": datasets.Image(), "label": classes})
    rows = {"img": [Image.fromarray(image) for image in GREY], "label": [i % 2 for i in range(30)]}
    path = tmp_path / ("x.parquet" if saved == "to_parquet" else "x")
    getattr(datasets.Dataset.from_dict(rows, features), saved)(str(path))
    data = opened(path)
    assert (data.names, data.classes, data.size) == (("coat", "bag", "hat"), 3, 6)
    assert data.labels.unique().tolist() == [0, 1]


def test_without_labels_there_are_no_classes(tmp_path):
    assert opened(written(tmp_path / "x.parquet", map(png, GREY))).classes == 0


def test_cells_that_cannot_be_used_are_counted(tmp_path, capsys):
    cells = [*map(png, GREY), png(GREY[0])[:40], b"no image", None, png(GREY[1])]
    path = written(tmp_path / "x.parquet", cells, label=[*[1] * 33, None])
    assert len(opened(path)) + len(opened(path, "heldout")) == 30
    said = capsys.readouterr().out
    assert "30 of 34 images are used" in said
    for part in ("2 cannot be decoded", "1 are not in the table", "1 have no label"):
        assert part in said


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_column": "kind"}, "no column kind among image, label; set data.label_column"),
        ({"image_column": "label"}, "no images in label of its columns image, label; set data.image_column"),
        ({}, r"labels from -1 to 0; they have to lie in 0\.\.0"),
    ],
)
def test_tables_of_something_else_are_refused_in_one_line(tmp_path, settings, message):
    path = written(tmp_path / "x.parquet", map(png, GREY), label=[-1] + [0] * 29)
    with pytest.raises(DataError, match=message) as error:
        opened(path, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("where", ["cut", "torn"])
def test_a_damaged_parquet_file_is_refused_in_one_line(tmp_path, where):
    path = written(tmp_path / "x.parquet", map(png, GREY))
    content = bytearray(path.read_bytes())
    content[30:300] = bytes(270)
    path.write_bytes(content[:200] if where == "cut" else content)
    with pytest.raises(DataError, match="cannot be read as a table of images") as error:
        opened(path)
    assert "\n" not in str(error.value)


def test_sizes_that_differ_are_refused_as_in_a_folder(tmp_path):
    path = written(tmp_path / "x.parquet", [png(GREY[0]), png(GREY[1][:4])])
    with pytest.raises(DataError, match=r"images of 2 sizes .*; set data.size"):
        opened(path)
    assert len(opened(path, size=4)) == 1


def test_a_table_beside_image_files_does_not_take_their_place(tmp_path):
    for number, image in enumerate(GREY):
        (tmp_path / f"{number}.png").write_bytes(png(image))
    written(tmp_path / "metadata.parquet", map(png, GREY[:2]))
    assert sum(len(opened(tmp_path, split)) for split in ("train", "heldout")) == 30

"""Pictures out of tables: parquet files, what `datasets` saved, and data sets of the Hugging Face hub.

    x.parquet    folder/train-*.parquet, test-*.parquet    folder of Dataset.save_to_disk    hub:OWNER/NAME

A column holds encoded images, as the hub's sets do (bytes, or a struct with `bytes`); another may hold
classes: whole numbers, or text, of which each different one is a class; and one captions. A data set's own
code is never run.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from llmkit.data import pictures
from llmkit.data.pictures import Pictures
from llmkit.errors import DataError

HUB = "hub:"
SAVED = ("dataset_info.json", "dataset_dict.json")
"""What `datasets` writes beside the tables that it saves."""
HELDOUT = ("test", "validation", "valid")
"""Names of the split that is held out, the first that is there; "train" is trained on."""
FAILURES = (OSError, ValueError, RuntimeError)
"""Whatever goes wrong at the hub or in arrow is one of these."""


def are_in(source: str) -> bool:
    """Whether `source` is a table: a .parquet file, a folder of these or of `datasets`, or of the hub."""
    path = Path(source).expanduser()
    if path.is_dir():
        kinds = {file.suffix.lower() for file in path.rglob("*")}
        parquet = ".parquet" in kinds and kinds.isdisjoint(pictures.SUFFIXES)  # else it describes them
        return parquet or any((path / name).is_file() for name in SAVED)
    return source.startswith(HUB) or path.suffix == ".parquet"


def read(source: str, fit, image: str | None, label: str | None, caption: str = "") -> dict[str, Pictures]:
    """{"all": ...}, or {"train", "heldout"} where there are two splits or more; `fit` as pictures.read's.

    `image`, `label` and `caption` name columns; by default the first that holds images, "label" if there is
    one, and none.
    DataError if the tables cannot be read, hold no such column, or images or labels that cannot be.
    """
    splits = _opened(source)
    held = next((name for name in HELDOUT if name in splits), None)
    if held is None or len(splits) == 1:
        wanted = {"all": next(iter(splits))}
    elif "train" in splits:
        wanted = {"train": "train", "heldout": held}
    else:
        raise DataError(f"{source}: splits {', '.join(splits)}, none of them train; name one so")
    table = splits[next(iter(wanted.values()))]
    image, label = _columns(source, table.features, image, label, caption)
    found = {
        part: pictures.gathered(_cells(source, splits[name], image, label, caption), fit, f"{source}, {name}")
        for part, name in wanted.items()
    }
    classes = _classes(table.features.get(label), {value for _, told in found.values() for value, _ in told})
    numbers = {name: number for number, name in enumerate(classes)}
    return {
        part: pictures.labelled(
            images,
            [numbers.get(value, value) for value, _ in told],
            f"{source}: {label}",
            classes,
            captions=tuple(said for _, said in told) if caption else (),
        )
        for part, (images, told) in found.items()
    }


def _opened(source: str) -> Any:
    """The splits by name, as `datasets` has them: streams, but for folders that it saved."""
    import datasets

    path = Path(source).expanduser()
    try:
        if path.suffix == ".parquet":
            return datasets.load_dataset("parquet", data_files=str(path), streaming=True)
        if any((path / name).is_file() for name in SAVED):
            found = datasets.load_from_disk(str(path))
            return found if isinstance(found, dict) else {"all": found}
        name = source.removeprefix(HUB) if source.startswith(HUB) else str(path)
        return datasets.load_dataset(name, streaming=True)
    except FAILURES as error:
        raise _unreadable(source, error) from None


def _unreadable(source: str, error: Exception) -> DataError:
    said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return DataError(f"{source}: cannot be read as a table of images ({said}); get it again")


def _columns(
    source: str, features: Any, image: str | None, label: str | None, caption: str
) -> tuple[str, str | None]:
    """The names of the columns of images and labels; None where there are no labels."""
    there = ", ".join(features)
    image = image or next((name for name, kind in features.items() if _holds_images(kind)), None)
    if image is None or not _holds_images(features.get(image)):
        raise DataError(
            f"{source}: no images in {image or 'any'} of its columns {there}; set data.image_column"
        )
    if label and label not in features:
        raise DataError(f"{source}: no column {label} among {there}; set data.label_column")
    if caption and caption not in features:
        raise DataError(f"{source}: no column {caption} among {there}; set data.caption_column")
    return image, label or ("label" if "label" in features else None)


def _holds_images(kind: Any) -> bool:
    import datasets

    if isinstance(kind, dict):
        return "bytes" in kind
    return isinstance(kind, datasets.Image) or getattr(kind, "dtype", "") in ("binary", "large_binary")


def _cells(
    source: str, table: Any, image: str, label: str | None, caption: str
) -> Iterator[tuple[BinaryIO | str, tuple[Any, Any]]]:
    """(image file or why there is none, label and caption) of each row; 0 and "" where there is no column."""
    import datasets

    table = table.select_columns(list(dict.fromkeys(filter(None, (image, label, caption)))))
    if isinstance(table.features[image], datasets.Image):
        table = table.cast_column(image, datasets.Image(decode=False))
    try:
        for row in table:
            cell, value, said = row[image], row[label] if label else 0, row[caption] if caption else ""
            content = cell.get("bytes") if isinstance(cell, dict) else cell
            if value is None or said is None:
                yield "have no label" if value is None else pictures.NO_CAPTION, (value, said)
            else:
                yield io.BytesIO(content) if content else "are not in the table", (value, str(said))
    except FAILURES as error:
        raise _unreadable(source, error) from None


def _classes(kind: Any, values: set[Any]) -> tuple[str, ...]:
    """The names of the classes, by number: those that the table states, its texts in order, or none."""
    if names := getattr(kind, "names", None):
        return tuple(names)
    if all(isinstance(value, str) for value in values):
        return tuple(sorted(values))
    top = max((value for value in values if isinstance(value, int)), default=0)
    return tuple(map(str, range(top + 1))) if top > 0 else ()

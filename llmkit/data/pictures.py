"""Pictures out of files: a folder of images (sub-folders are classes), an .npz archive, or MNIST's idx files.

    folder/cat/1.png  folder/dog/7.jpg      a class per sub-folder, or none at all
    folder/metadata.jsonl                   captions: {"file_name": "cat/1.png", "text": "a grey cat"}
    x.npz                                   `images` (N, Y, X[, C]) uint8; perhaps `labels`, `captions` (N,)
    dir/train-images-idx3-ubyte[.gz]        LeCun's format; t10k-* is what is held out

A foreign image is decoded by Pillow, after its header said how many pixels it has. What cannot be read is
counted.
"""

import gzip
import hashlib
import json
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from llmkit.errors import ConfigError, DataError
from llmkit.log import say

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MAX_PIXELS = 1 << 26
"""Of one image; what claims more is a decompression bomb."""
MAX_BYTES = 1 << 36
"""Of all images decoded: they are held in memory."""
METADATA = "metadata.jsonl"
"""Where `datasets` keeps what is known about the images of a folder."""
NO_CAPTION = "have no caption"


@dataclass(frozen=True)
class Pictures:
    """Decoded images of one size."""

    images: np.ndarray
    """(N, Y, X, C) uint8; C is 1 (grey) or 3 (RGB)."""
    labels: np.ndarray
    """(N,) int64 in range(classes); all 0 where there are no classes."""
    classes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    """Of each image, where it came from a file of its own: decides whether it is held out."""
    captions: tuple[str, ...] = ()
    """Of each image, where there are any."""

    def __post_init__(self):
        n = len(self.images)
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[3] not in (1, 3):
            raise DataError(
                f"images: {self.images.dtype} {list(self.images.shape)} is not what images are; "
                "give uint8 (N, Y, X), (N, Y, X, 1) or (N, Y, X, 3)"
            )
        if len(self.labels) != n:
            raise DataError(f"labels: {len(self.labels)} for {n} images; give one for each")
        if self.captions and len(self.captions) != n:
            raise DataError(f"captions: {len(self.captions)} for {n} images; give one for each")

    def part(self, chosen: np.ndarray) -> "Pictures":
        """Those images that `chosen`, booleans or numbers, picks."""
        names, captions = (
            tuple(np.array(said, object)[chosen]) if said else () for said in (self.names, self.captions)
        )
        return Pictures(self.images[chosen], self.labels[chosen], self.classes, names, captions)


def read(path: Path, fit, caption: str = "") -> dict[str, Pictures]:
    """{"all": ...}, or {"train", "heldout"} where the files say so themselves.

    `fit(image) -> (Y, X, C) uint8 array` brings one Pillow image to the wanted size and channels. `caption`:
    what captions are called in a folder's metadata.jsonl; without it none are read.
    DataError if there is nothing to read, or what is there is not what it should be.
    """
    if path.is_dir():
        idx = sorted(path.glob("*-images-idx3-ubyte*"))
        return _idx(idx) if idx else {"all": _folder(path, fit, caption)}
    if path.suffix == ".npz":
        return {"all": _npz(path)}
    raise DataError(
        f"{path}: is neither a folder of images or idx files nor an .npz or .parquet; give one of these"
    )


# ---- image files -------------------------------------------------------------------------------------------


def _folder(path: Path, fit, caption: str) -> Pictures:
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise DataError(f"{path}: holds no image ({', '.join(SUFFIXES)}); give a folder that does")
    classes = tuple(sorted({p.relative_to(path).parts[0] for p in files if p.parent != path}))
    told = _captions(path / METADATA, caption) if caption else None
    named = ((file, file.relative_to(path)) for file in files)
    found = ((_unfit(name, classes, told) or file, name) for file, name in named)
    images, kept = gathered(found, fit, str(path))
    labels = [classes.index(name.parts[0]) if classes else 0 for name in kept]
    names = tuple(name.as_posix() for name in kept)
    return Pictures(
        images, np.array(labels), classes, names, tuple(told[name] for name in names) if told else ()
    )


def _unfit(name: Path, classes: tuple[str, ...], told: dict[str, str] | None) -> str | None:
    if classes and len(name.parts) == 1:
        return "lie outside of the classes' folders"
    return NO_CAPTION if told is not None and name.as_posix() not in told else None


def _captions(path: Path, column: str) -> dict[str, str]:
    """The captions in a metadata.jsonl by file name. DataError if it is not there, or a line is not one."""
    if not path.is_file():
        raise DataError(f"{path}: is not there; a line of it is {{file_name: ..., {column}: ...}}")
    told = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            row = json.loads(line)
            told[str(row["file_name"])] = str(row[column])
        except (ValueError, KeyError, TypeError):
            raise DataError(f'{path}:{number}: is no JSON object with "file_name" and "{column}"') from None
    return told


def gathered(
    found: Iterable[tuple[Path | BinaryIO | str, Any]], fit, where: str
) -> tuple[np.ndarray, list[Any]]:
    """Decode (image file or why there is none, what it is) pairs -> images (N, Y, X, C), what they are.

    What cannot be used is counted and said. DataError if nothing can, or sizes or channels are mixed.
    """
    images, kept, left_out = [], [], Counter[str]()
    num_bytes = 0
    for file, what in found:
        image = file if isinstance(file, str) else _decoded(file, fit)
        if isinstance(image, str):
            left_out[image] += 1
            continue
        num_bytes += image.nbytes
        if num_bytes > MAX_BYTES:
            raise DataError(
                f"{where}: decodes to more than {MAX_BYTES >> 30} GiB; set data.size to something smaller"
            )
        images.append(image)
        kept.append(what)
    told = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    count = len(images) + left_out.total()
    if not images:
        raise DataError(f"{where}: none of its {count} images can be used{told and f': {told}'}")
    if left_out:
        say(f"{where}: {len(images)} of {count} images are used; left out: {told}")
    if len(shapes := Counter(image.shape[:2] for image in images)) > 1:
        common = ", ".join(f"{x}x{y}" for (y, x), _ in shapes.most_common(3))
        raise DataError(
            f"{where}: images of {len(shapes)} sizes ({common}, ...); set data.size to bring them to one"
        )
    if len(depths := Counter(image.shape[2] for image in images)) > 1:
        raise DataError(
            f"{where}: {depths[1]} images are grey and {depths[3]} in colour; set data.channels to 1 or 3"
        )
    return np.stack(images), kept


def _decoded(file: Path | BinaryIO, fit) -> np.ndarray | str:
    """The image as an array, or why it cannot be used."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own, about bombs, comes later than ours
            with Image.open(file) as image:
                if image.width * image.height > MAX_PIXELS:
                    return f"have more than {MAX_PIXELS} pixels"
                if image.mode.startswith(("I", "F")):
                    return "have more than 8 bits a channel"
                return fit(image)
    except (
        Exception
    ):  # Pillow raises what its decoders raise: OSError, SyntaxError, ValueError, struct.error, ...
        return "cannot be decoded"


# ---- arrays ------------------------------------------------------------------------------------------------


def _npz(path: Path) -> Pictures:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if "images" not in archive:
                raise DataError(
                    f"{path}: holds no array `images`, but {', '.join(archive.files)}; name it so"
                )
            images = archive["images"]
            labels = archive["labels"] if "labels" in archive else np.zeros(len(images), np.int64)
            captions = tuple(map(str, archive["captions"])) if "captions" in archive else ()
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not an .npz of plain arrays: {error}; write it with numpy.savez") from None
    return labelled(images, labels, str(path), captions=captions)


def _idx(files: list[Path]) -> dict[str, Pictures]:
    splits = {}
    for file in files:
        labels = file.with_name(file.name.replace("images-idx3", "labels-idx1"))
        split = "heldout" if file.name.startswith(("t10k", "test")) else "train"
        if not labels.is_file():
            raise DataError(f"{file}: its labels {labels.name} are not there; put them beside it")
        splits[split] = labelled(idx(file.read_bytes(), file), idx(labels.read_bytes(), labels), str(file))
    return splits if len(splits) == 2 else {"all": next(iter(splits.values()))}


def idx(content: bytes, where: object) -> np.ndarray:
    """The uint8 array in a (gzipped) idx file. DataError if it is damaged."""
    try:
        raw = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        zeros, kind, dims = struct.unpack(">HBB", raw[:4])
        shape = struct.unpack(f">{dims}I", raw[4 : 4 + 4 * dims])
        if zeros or kind != 8:
            raise ValueError("it holds no bytes")
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape)
    except (ValueError, struct.error, OSError, EOFError) as error:
        raise DataError(f"{where}: not an idx file: {error}; get it again") from None


def labelled(
    images: np.ndarray,
    labels: np.ndarray | list[int],
    where: str,
    classes: tuple[str, ...] = (),
    **beside: tuple[str, ...],
) -> Pictures:
    """`images` (N, Y, X[, C]) with integer `labels` (N,); unnamed classes are counted by the largest.

    `beside`: `names` and `captions` of `Pictures`.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{where}: labels are {labels.dtype} {list(labels.shape)}; give one integer an image")
    labels = labels.astype(np.int64)
    wanted = len(classes) or int(labels.max(initial=0)) + 1
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= wanted:
        raise DataError(
            f"{where}: labels from {labels.min()} to {labels.max()}; they have to lie in 0..{wanted - 1}"
        )
    images = images[..., None] if images.ndim == 3 else images
    return Pictures(
        images, labels, classes or (tuple(map(str, range(wanted))) if wanted > 1 else ()), **beside
    )


def fitted(pictures: Pictures, size: int | None, channels: int | None, fit) -> Pictures:
    """`pictures` with every image brought through `fit`, if they are not of that size and channels."""
    from PIL import Image

    _, height, width, depth = pictures.images.shape
    if size in (None, height) and height == width and channels in (None, depth):
        return pictures
    images = [fit(Image.fromarray(image[..., 0] if depth == 1 else image)) for image in pictures.images]
    return replace(pictures, images=np.stack(images))


# ---- splitting ---------------------------------------------------------------------------------------------


def split(pictures: Pictures, heldout_frac: float, where: str) -> dict[str, Pictures]:
    """{"train", "heldout"}: by hash of the file's name, or the image's number: it never moves."""
    n = len(pictures.images)
    names = pictures.names or tuple(map(str, range(n)))
    places = np.array(
        [int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest()) for name in names]
    )
    if n < 2:
        raise DataError(
            f"{where}: {n} image is too little; there has to be one to train on and one to hold out"
        )
    held = places < heldout_frac * 2**32
    if held.all() or not held.any():  # too few for the fraction: hold out the one with the smallest hash
        held = places == places.min()
    return {"train": pictures.part(~held), "heldout": pictures.part(held)}


def fitting(size: int | None, channels: int | None, how: str):
    """A function that brings a Pillow image to (size, size, channels) uint8; None leaves it as it is.

    `crop`: the shorter side becomes `size`, the middle is kept; `pad`: black all around, nothing scaled up.
    What is transparent becomes white.
    """
    from PIL import Image, ImageOps

    if channels not in (None, 1, 3):
        raise ConfigError(f"data.channels: {channels} is neither 1 (grey) nor 3 (colour)")

    def fit(image: Image.Image) -> np.ndarray:
        grey = image.mode in ("1", "L", "LA") if channels is None else channels == 1
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if grey else "RGB")
        if size and image.size != (size, size):
            if how == "pad":
                image = ImageOps.contain(image, (size, size)) if max(image.size) > size else image
                image = _centred(image, size)
            else:
                image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
        return np.atleast_3d(np.asarray(image))

    return fit


def _centred(image, size: int):
    from PIL import Image

    canvas = Image.new(image.mode, (size, size))
    canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return canvas

"""Images to look at: grids of them, as PNG bytes."""

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llmkit.vision import noise, walk


def grid(images: Tensor, columns: int = 8, border: int = 2) -> np.ndarray:
    """images (N, C, Y, X) in [0, 1] -> one uint8 array (Y', X', C), row by row, on a white ground."""
    images = (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    n, channels, height, width = images.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    shape = (rows * (height + border) + border, columns * (width + border) + border, channels)
    out = np.full(shape, 255, np.uint8)
    for i, image in enumerate(images):
        y, x = (place * (side + border) + border for place, side in zip(divmod(i, columns), (height, width)))
        out[y : y + height, x : x + width] = image.transpose(1, 2, 0)
    return out


def png(picture: np.ndarray, scale: int = 1) -> bytes:
    """A PNG file of a uint8 array (Y, X, 1 or 3), each pixel `scale` times as wide and high."""
    picture = picture.repeat(scale, 0).repeat(scale, 1)
    height, width, channels = picture.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), picture.reshape(height, -1)], 1)  # filter 0
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def sheet(images: Tensor, columns: int = 8) -> bytes:
    """A grid as PNG, small images enlarged so that about 64 pixels show each."""
    return png(grid(images, columns), max(1, 64 // images.shape[-1]))


def labels(net: Any, count: int, device) -> Tensor:
    """Labels to show a net's images of: (count,), its classes in turn, or (count, 1), its words."""
    number = torch.arange(count, device=device)
    if words := getattr(net.settings, "words", None):
        return number[:, None] % len(words) + 1
    return number % (net.settings.classes or 1)


def samples(net: nn.Module, count: int, columns: int = 8) -> bytes:
    """`count` images that `net` draws from the same noise every time; of all classes or words in turn."""
    device = next(net.parameters()).device
    return sheet(net.sample(noise.keys(0, count, device), labels(net, count, device)), columns)


def classes(net: Any, rows: int = 8) -> bytes:
    """A column for each class or word, of many the first 16, and a row for each noise."""
    device = next(net.parameters()).device
    count = min(len(getattr(net.settings, "words", None) or ()) or net.settings.classes, 16)
    key, label = noise.keys(0, rows, device).repeat_interleave(count), labels(net, count, device)
    return sheet(net.sample(key, label.repeat(rows, *(1,) * (label.ndim - 1))), count)


def interpolations(net: Any, rows: int = 8, steps: int = 8) -> bytes:
    """Every row goes from one image to the next row's first, always from the same noise."""
    device = next(net.parameters()).device
    key, label = noise.keys(0, rows, device), labels(net, rows, device)
    return sheet(walk.interpolation(net, key, label, steps).flatten(0, 1), steps)


def looks(net: Any, count: int) -> dict[str, bytes]:
    """What an evaluation shows of a net with a latent space, by the file's name."""
    files = {"samples.png": samples(net, count), "interpolations.png": interpolations(net)}
    return files | ({"classes.png": classes(net)} if net.settings.conditional else {})


def pairs(images: Tensor, others: Tensor) -> Tensor:
    """(N, C, Y, X) twice -> (2N, C, Y, X): each image, then what was made of it."""
    return torch.stack([images, others], 1).flatten(0, 1)


LINE = 15
"""Pixels of a line of text beside an image."""


def beside(images: Tensor, lines: Sequence[Sequence[str]], columns: int = 2) -> bytes:
    """images (N, C, Y, X) in [0, 1], each with its lines of text to the right of it, as PNG."""
    from PIL import Image, ImageDraw, ImageFont

    font, side, gap = ImageFont.load_default(LINE - 2), 64, 8
    wide = max(font.getlength(line) for told in lines for line in told)
    cell = (side + round(wide) + 3 * gap, max(side, LINE * max(map(len, lines))) + gap)
    out = Image.new("RGB", (columns * cell[0], -(-len(images) // columns) * cell[1]), "white")
    draw = ImageDraw.Draw(out)
    for i, (image, told) in enumerate(zip(images, lines, strict=True)):
        x, y = (i % columns) * cell[0] + gap // 2, (i // columns) * cell[1] + gap // 2
        pixels = grid(image[None], 1, 0).squeeze()
        out.paste(Image.fromarray(pixels).resize((side, side)), (x, y))
        draw.multiline_text((x + side + gap, y), "\n".join(told), "black", font)
    content = io.BytesIO()
    out.save(content, "PNG")
    return content.getvalue()

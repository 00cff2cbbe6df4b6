"""PixelCNN++ (Salimans et al. 2017): two streams of gated residual blocks, down to small maps and up again.

    u    knows the rows above a pixel            blocks ──┬───────────── skips ────────────┬── blocks
    ul   knows those and what is to its left,             └─ halved ── blocks ── doubled ──┘
         and is told of u                                    (again, for each further level)

As in pixel.py a mask is a window: a kernel holds no weight for what it may not see. At the entrance what
lies above is moved down by a row, or to the right by a pixel; from there on a feature may see its own place.
Images are drawn pixel by pixel from what is kept of those before: u by rows, ul by pixels, a smaller map
every second row and column.

Weight normalisation and its initialisation by data are not there: weights are drawn by fan in, a gate's to a
tenth of that, as the paper scales it.

Letters: B images, D width, C channels, Y X size (of a level's maps), M numbers for each pixel.
"""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from llmkit.errors import ConfigError
from llmkit.registry import register
from llmkit.vision import pixels
from llmkit.vision.layers import fill, kinds, told


@register("model", "pixelcnnpp")
class PixelCnnPp(nn.Module):
    """The distribution of each pixel given the ones before it, and the class if conditional."""

    class Settings(pixels.Settings):
        name: Literal["pixelcnnpp"] = "pixelcnnpp"
        width: int = Field(32, gt=0, description="channels; the paper's: 160")
        layers: int = Field(2, gt=0, description="blocks of either stream at each level; the paper's: 5")
        levels: int = Field(3, gt=0, description="sizes of maps, each half the one before")
        dropout: float = Field(0.0, ge=0, lt=1, description="inside blocks; the paper's: 0.5")
        quick_values: ClassVar[dict[str, Any]] = {"width": 8, "layers": 1, "levels": 2}

    def __init__(self, settings: Settings):
        super().__init__()
        self.settings = s = settings
        numbers, inputs = pixels.numbers(s), s.channels + 1  # a channel of ones tells the border from black
        if s.size % 2 ** (s.levels - 1):
            raise ConfigError(
                f"model.levels: {s.size} cannot be halved {s.levels - 1} times; set data.size or levels"
            )
        self.enter = Down(inputs, s.width, late=1)
        self.above = Down(inputs, s.width, rows=1, late=1)
        self.left = Right(inputs, s.width, columns=1, late=1)
        self.levels = nn.ModuleList(Level(s, i) for i in range(s.levels))
        self.last = nn.Conv2d(s.width, numbers, 1)

    def init_param(self, name: str, p: nn.Parameter, generator: torch.Generator) -> None:
        """Fill one parameter, by fan in."""
        fill(name, p, generator, 0.1 * p[0].numel() ** -0.5 if ".gates." in name and p.ndim > 1 else None)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, C, Y, X) in [-1, 1] -> (B, M, Y, X); [:, :, y, x] depends on earlier pixels alone."""
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        _, ul = self._level(0, self.enter(x), self.above(x) + self.left(x), label)
        return self.last(F.elu(ul))

    def _level(self, i: int, u: Tensor, ul: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both streams through level i and what is below it; of the same sizes."""
        level, us, uls = self.levels[i], [u], [ul]
        for block, beside in zip(level.down, level.down_beside):
            us.append(block(us[-1], None, label))
            uls.append(beside(uls[-1], us[-1], label))
        if i + 1 < len(self.levels):
            u, ul = self._level(i + 1, level.shrink(us[-1]), level.shrink_beside(uls[-1]), label)
            u, ul = level.grow(u), level.grow_beside(ul)
        else:
            u, ul = us.pop(), uls.pop()
        for block, beside in zip(level.up, level.up_beside):
            u = block(u, us.pop(), label)
            ul = beside(ul, torch.cat([u, uls.pop()], 1), label)
        return u, ul

    def nll(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """-log p(x): x (B, C, Y, X) in [-1, 1] -> (B,) nats."""
        return pixels.nll(self.settings, self(x, label), x)

    # ---- drawing images ------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(self, key: Tensor, label: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """Draw images pixel by pixel: (B,) keys -> (B, C, Y, X) in [0, 1]; truncation as `pixels.draw`."""
        s, size = self.settings, self.settings.size
        u = pixels.chance(s, key)
        new = self.last.weight.new_zeros
        x = new(len(key), s.channels + 1, size + 2, size + 2)  # zeros above (two rows) and on either side
        x[:, -1, 2:, 1:-1] = 1
        self._forget(len(key))
        for row in range(size):
            self._row(0, row, self.enter.conv(x[:, :, row : row + 2]), label)
            above = self.above.conv(x[:, :, row + 1 : row + 2])
            for column in range(size):
                left = self.left.conv(x[:, :, row + 1 : row + 3, column : column + 1])
                ul = self._pixel(0, row, column, above[..., column : column + 1] + left, label)
                out = self.last(F.elu(ul))[:, :, 0, 0].float()
                x[:, :-1, row + 2, column + 1] = pixels.draw(s, out, u[:, row, column], truncation)
        self._forget(0)
        return (x[:, :-1, 2:, 1:-1] + 1) / 2

    def _forget(self, B: int) -> None:
        """Begin a batch of B images, with nothing kept."""
        for module in self.modules():
            if isinstance(module, (Down, Right)):
                module.kept = None
        self._told: list[list[Tensor]] = [
            [] for _ in self.levels
        ]  # u of this row, in the order ul asks for it
        self._pair: list[Any] = [None] * len(self.levels)  # two rows of u from the level below
        size, D = self.settings.size, self.settings.width
        self._grown = [
            self.last.weight.new_zeros(B, D, size >> i, size >> i) for i in range(len(self.levels))
        ]

    def _row(self, i: int, row: int, u: Tensor, label: Tensor | None) -> Tensor:
        """`_level` of u at one row (B, D, 1, X)."""
        level, us = self.levels[i], [u]
        for block in level.down:
            us.append(block.row(us[-1], None, label))
        told = us[1:]
        if i + 1 < len(self.levels):
            halved = level.shrink.row(us[-1], due=row % 2 == 0)
            if halved is not None:
                self._pair[i] = level.grow(self._row(i + 1, row // 2, halved, label))
            u = self._pair[i][:, :, row % 2 : row % 2 + 1]
        else:
            u = us.pop()
        for block in level.up:
            u = block.row(u, us.pop(), label)
            told = [*told, u]
        self._told[i] = told
        return u

    def _pixel(self, i: int, row: int, column: int, ul: Tensor, label: Tensor | None) -> Tensor:
        """`_level` of ul at one pixel (B, D, 1, 1)."""
        level, uls, at = self.levels[i], [ul], (row, column)
        told = iter([u[..., column : column + 1] for u in self._told[i]])
        for block in level.down_beside:
            uls.append(block.pixel(uls[-1], next(told), label, at))
        if i + 1 < len(self.levels):
            halved = level.shrink_beside.pixel(uls[-1], at, due=row % 2 == column % 2 == 0)
            if halved is not None:
                below = self._pixel(i + 1, row // 2, column // 2, halved, label)
                self._grown[i][:, :, row : row + 2, column : column + 2] = level.grow_beside(below)
            ul = self._grown[i][:, :, row : row + 1, column : column + 1]
        else:
            ul = uls.pop()
        for block in level.up_beside:
            ul = block.pixel(ul, torch.cat([next(told), uls.pop()], 1), label, at)
        return ul


class Level(nn.Module):
    """The blocks of both streams at one size, and what leads to the next smaller size and back."""

    def __init__(self, s: PixelCnnPp.Settings, i: int):
        super().__init__()
        last, D = i + 1 == s.levels, s.width
        ups = s.layers + (not last)
        self.down = nn.ModuleList(Gated(s, Down, 0) for _ in range(s.layers))
        self.down_beside = nn.ModuleList(Gated(s, Right, D) for _ in range(s.layers))
        self.up = nn.ModuleList(Gated(s, Down, D) for _ in range(ups))
        self.up_beside = nn.ModuleList(Gated(s, Right, 2 * D) for _ in range(ups))
        self.shrink = None if last else Down(D, D, stride=2)
        self.shrink_beside = None if last else Right(D, D, stride=2)
        self.grow = None if last else Doubled(D, 3)
        self.grow_beside = None if last else Doubled(D, 2)


class Down(nn.Module):
    """A convolution over `rows` rows up to this one, three columns wide; `late`: up to the row above."""

    def __init__(self, inputs: int, outputs: int, rows: int = 2, late: int = 0, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, (rows, 3), stride)
        self.pad = (1, 1, rows - 1 + late, 0)
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, D', Y, X) -> (B, D, Y, X), or half of both."""
        late = self.pad[2] - self.conv.kernel_size[0] + 1
        return self.conv(F.pad(x[:, :, : x.shape[2] - late], self.pad))

    def row(self, x: Tensor, due: bool = True) -> Tensor | None:
        """The result at one row, of which x (B, D', 1, X) is the input; None, and x is kept, if not `due`."""
        before = torch.zeros_like(x) if self.kept is None else self.kept
        self.kept = x
        return self.conv(F.pad(torch.cat([before, x], 2), (1, 1))) if due else None


class Right(nn.Module):
    """A convolution over this row and the one above, `columns` up to this one; `late`: up to that before."""

    def __init__(self, inputs: int, outputs: int, columns: int = 2, late: int = 0, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, (2, columns), stride)
        self.pad, self.late = (columns - 1 + late, 0, 1, 0), late
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, D', Y, X) -> (B, D, Y, X), or half of both."""
        return self.conv(F.pad(x[..., : x.shape[3] - self.late], self.pad))

    def pixel(self, x: Tensor, at: tuple[int, int], due: bool = True) -> Tensor | None:
        """The result at one pixel, of which x (B, D', 1, 1) is the input; None, and x is kept, if not `due`.

        Kept are two rows with a zero before them, each of a power of two columns that grows as need be.
        """
        row, column = at
        if self.kept is None:
            self.kept = x.new_zeros(*x.shape[:2], 2, 2)
        if column + 2 > self.kept.shape[3]:
            self.kept = F.pad(self.kept, (0, self.kept.shape[3]))
        if column == 0 and row:
            self.kept = torch.cat([self.kept[:, :, 1:], torch.zeros_like(self.kept[:, :, 1:])], 2)
        self.kept[:, :, 1, column + 1] = x[:, :, 0, 0]
        return self.conv(self.kept[..., column : column + 2]) if due else None


class Doubled(nn.Module):
    """A transposed convolution that makes two rows and columns of each; `columns` wide, in the middle."""

    def __init__(self, width: int, columns: int):
        super().__init__()
        self.conv = nn.ConvTranspose2d(width, width, (2, columns), 2)
        self.cut = columns // 2 if columns % 2 else 0

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, Y, X) -> (B, D, 2Y, 2X)"""
        return self.conv(x)[..., self.cut : self.cut + 2 * x.shape[3]]


class Gated(nn.Module):
    """Two convolutions of one stream, a gate, a residual; told of `extra` channels and of the class."""

    def __init__(self, s: PixelCnnPp.Settings, kind: type[Down] | type[Right], extra: int):
        super().__init__()
        D = s.width
        self.first, self.gates = kind(2 * D, D), kind(2 * D, 2 * D)
        self.extra = nn.Conv2d(2 * extra, D, 1) if extra else None
        self.told = nn.Embedding(kinds(s), 2 * D) if s.conditional else None
        self.dropout = s.dropout

    def forward(self, x: Tensor, extra: Tensor | None, label: Tensor | None) -> Tensor:
        """x (B, D, Y, X), extra (B, E, Y, X) -> (B, D, Y, X)"""
        return x + self._gated(self.gates(self._inner(self.first(both(x)), extra)), label)

    def row(self, x: Tensor, extra: Tensor | None, label: Tensor | None) -> Tensor:
        """`forward` at one row, of the stream by rows."""
        return x + self._gated(self.gates.row(self._inner(self.first.row(both(x)), extra)), label)

    def pixel(self, x: Tensor, extra: Tensor | None, label: Tensor | None, at: tuple[int, int]) -> Tensor:
        """`forward` at one pixel, of the stream by pixels."""
        inner = self._inner(self.first.pixel(both(x), at), extra)
        return x + self._gated(self.gates.pixel(inner, at), label)

    def _inner(self, h: Tensor, extra: Tensor | None) -> Tensor:
        h = h if extra is None else h + self.extra(both(extra))
        return F.dropout(both(h), self.dropout, self.training)

    def _gated(self, h: Tensor, label: Tensor | None) -> Tensor:
        h = h if self.told is None else h + told(self.told, label)[:, :, None, None]
        a, b = h.chunk(2, 1)
        return a * b.sigmoid()


def both(x: Tensor) -> Tensor:
    """The concatenated ELU (B, D, ..) -> (B, 2D, ..): of x and of -x."""
    return F.elu(torch.cat([x, -x], 1))

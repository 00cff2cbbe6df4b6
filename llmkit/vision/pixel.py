"""Autoregressive models of images: every pixel from those above it and to its left, in reading order.

    pixelcnn   masked convolutions, residual (van den Oord et al. 2016a); has a blind spot to the upper right
    gated      a vertical and a horizontal stack with gates (van den Oord et al. 2016b): no blind spot
    snail      gated convolutions and attention to all pixels before (Chen et al. 2018)

A mask is a window here: what a masked kernel may not see is not in the kernel. So a pixel is drawn from what
is kept of the pixels before it, and nothing is computed twice: blocks have a `row` (what rows above say to a
whole row) and a `step` (one pixel).

Letters: B images, D width, C channels, Y X size, M numbers for each pixel.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from llmkit.models.blocks import attend
from llmkit.registry import register
from llmkit.vision import pixels
from llmkit.vision.layers import fill, kinds, told


@register("model", "pixel")
class Pixel(nn.Module):
    """The distribution of each pixel given the ones before it, and the class if conditional."""

    class Settings(pixels.Settings):
        name: Literal["pixel"] = "pixel"
        net: Literal["pixelcnn", "gated", "snail"] = Field("gated", description="kind of blocks")
        width: int = Field(32, gt=0, description="channels")
        layers: int = Field(5, gt=0, description="blocks")
        quick_values: ClassVar[dict[str, Any]] = {"width": 8, "layers": 2}

    def __init__(self, settings: Settings, numbers: int | None = None):
        """`numbers` of a pixel, where they are not those of the likelihood."""
        super().__init__()
        self.settings = s = settings
        numbers = numbers or pixels.numbers(s)
        inputs = s.channels + 1  # one channel of ones tells the border from black
        self.above = Window(inputs, s.width, (3, 7), (3, 3, 3, 0))
        self.left = Window(inputs, s.width, (1, 3), (3, 0, 0, 0))
        block = {"pixelcnn": ResidualBlock, "gated": GatedBlock, "snail": SnailBlock}[s.net]
        beside = (inputs,) if s.net == "snail" else ()
        self.blocks = nn.ModuleList(block(s.width, *beside) for _ in range(s.layers))
        self.embeds = nn.ModuleList(
            nn.Embedding(kinds(s), s.width) for _ in range(s.layers if s.conditional else 0)
        )
        self.last = nn.Conv2d(s.width, numbers, 1)

    def init_param(self, name: str, p: nn.Parameter, generator: torch.Generator) -> None:
        """Fill one parameter, by fan in."""
        fill(name, p, generator)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, C, Y, X) in [-1, 1] -> (B, M, Y, X), of which [:, :, y, x] depends on earlier pixels alone.

        A crop of the uppermost rows gives the uppermost rows of the result.
        """
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        above = self.above(x)
        h = above + self.left(x)
        v = previous(x) if self.settings.net == "snail" else above
        for i, block in enumerate(self.blocks):
            if self.embeds:
                h = h + told(self.embeds[i], label)[:, :, None, None]
            v, h = block(v, h)
        return self.last(F.elu(h))

    def nll(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """-log p(x): x (B, C, Y, X) in [-1, 1] -> (B,) nats."""
        return pixels.nll(self.settings, self(x, label), x)

    @torch.no_grad()
    def sample(self, key: Tensor, label: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """Draw images pixel by pixel: (B,) keys -> (B, C, Y, X) in [0, 1]; truncation as `pixels.draw`."""
        s, u = self.settings, pixels.chance(self.settings, key)

        def choose(out: Tensor, row: int, column: int) -> Tensor:
            return pixels.draw(s, out, u[:, row, column], truncation)

        return (self.drawn(len(key), label, choose) + 1) / 2

    def drawn(self, B: int, label: Tensor | None, choose: Callable[[Tensor, int, int], Tensor]) -> Tensor:
        """(B, C, Y, X), each pixel chosen in turn: `choose(out (B, M), row, column)` gives (B, C)."""
        s = self.settings
        Y = X = s.size
        edge, zeros = self.above.pad[0], self.above.conv.weight.new_zeros
        x = zeros(B, s.channels + 1, Y + edge, X + 2 * edge)  # zeros above and beside
        x[:, -1, edge:, edge : edge + X] = 1
        known = [told(embed, label)[:, :, None, None] for embed in self.embeds]
        kept = [block.kept(B, Y, X, zeros) for block in self.blocks]
        before = zeros(B, s.channels + 1, 1, 1)
        for row in range(Y):
            above = v = self.above.conv(x[:, :, row : row + edge])
            for block, state in zip(self.blocks, kept):
                v = block.row(state, row, v)
            for column in range(X):
                left = x[:, :, row + edge : row + edge + 1, column : column + edge]
                h = above[..., column : column + 1] + self.left.conv(left)
                for i, (block, state) in enumerate(zip(self.blocks, kept)):
                    h = block.step(state, row, column, h + known[i] if known else h, before)
                out = self.last(F.elu(h))[:, :, 0, 0].float()
                x[:, :-1, row + edge, edge + column] = choose(out, row, column)
                before = x[:, :, row + edge : row + edge + 1, edge + column : edge + column + 1]
        return x[:, :-1, edge:, edge : edge + X]


class Window(nn.Module):
    """A convolution whose kernel lies above or to the left of the pixel that it is for.

    `pad` (left, right, top, bottom) says where: the result is cut to the input's size, from the upper left.
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], pad: tuple[int, int, int, int]):
        super().__init__()
        self.conv, self.pad = nn.Conv2d(inputs, outputs, kernel), pad

    def forward(self, x: Tensor) -> Tensor:
        """(B, D', Y, X) -> (B, D, Y, X)"""
        return self.conv(F.pad(x, self.pad))[:, :, : x.shape[2], : x.shape[3]]


class Masked(nn.Module):
    """A 3 x 3 convolution over the pixels before this one and, as it is of features, this one (mask B)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.above = Window(inputs, outputs, (1, 3), (1, 1, 1, 0))
        self.left = Window(inputs, outputs, (1, 2), (1, 0, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        return self.above(x) + self.left(x)

    def at(self, kept: Tensor, new: Tensor, row: int, column: int) -> Tensor:
        """The result at one pixel, whose input `new` (B, D', 1, 1) is entered into `kept` (`margin`)."""
        kept[:, :, row + 1, column + 1] = new[:, :, 0, 0]
        above = self.above.conv(kept[:, :, row : row + 1, column : column + 3])
        return above + self.left.conv(kept[:, :, row + 1 : row + 2, column : column + 2])


def margin(B: int, D: int, Y: int, X: int, zeros) -> Tensor:
    """A map with a row of zeros above it and a column on either side."""
    return zeros(B, D, Y + 1, X + 2)


def previous(x: Tensor) -> Tensor:
    """The pixel before each in reading order, 0 for the first: (B, C, Y, X) -> the same."""
    return F.pad(x.flatten(2), (1, 0))[:, :, :-1].view_as(x)


def gate(x: Tensor) -> Tensor:
    """(B, 2D, Y, X) -> (B, D, Y, X): tanh of one half, let through by the other."""
    a, b = x.chunk(2, 1)
    return a.tanh() * b.sigmoid()


class ResidualBlock(nn.Module):
    """1 x 1, masked 3 x 3, 1 x 1 at half the width (2016a, figure 5)."""

    def __init__(self, width: int):
        super().__init__()
        half = max(1, width // 2)
        self.squeeze, self.conv = nn.Conv2d(width, half, 1), Masked(half, half)
        self.widen = nn.Conv2d(half, width, 1)

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """`v` is handed on: there is one stack."""
        return v, h + self.widen(F.relu(self.conv(F.relu(self.squeeze(F.relu(h))))))

    def kept(self, B: int, Y: int, X: int, zeros) -> dict[str, Tensor]:
        """What is remembered of earlier pixels when images are drawn, empty."""
        return {"squeezed": margin(B, self.squeeze.out_channels, Y, X, zeros)}

    def row(self, state: dict[str, Tensor], row: int, v: Tensor) -> Tensor:
        """What the rows above tell this one (B, D, 1, X) -> what they tell the next block's."""
        return v

    def step(self, state: dict[str, Tensor], row: int, column: int, h: Tensor, before: Tensor) -> Tensor:
        """`forward` at one pixel: h (B, D, 1, 1); `before` (B, C + 1, 1, 1) is the pixel in front of it."""
        seen = self.conv.at(state["squeezed"], F.relu(self.squeeze(F.relu(h))), row, column)
        return h + self.widen(F.relu(seen))


class GatedBlock(nn.Module):
    """The vertical stack sees all rows above; the horizontal one is told of it (2016b, figure 2)."""

    def __init__(self, width: int):
        super().__init__()
        self.down = Window(width, 2 * width, (2, 3), (1, 1, 1, 0))
        self.across = Window(width, 2 * width, (1, 2), (1, 0, 0, 0))
        self.tell, self.out = nn.Conv2d(2 * width, 2 * width, 1), nn.Conv2d(width, width, 1)

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D, Y, X) of both stacks -> the same."""
        below = self.down(v)
        return gate(below), h + self.out(gate(self.across(h) + self.tell(below)))

    def kept(self, B: int, Y: int, X: int, zeros) -> dict[str, Tensor]:
        """The vertical stack's row above, what it tells this row, and the pixel to the left."""
        D = self.out.in_channels
        return {"above": zeros(B, D, 1, X), "told": zeros(B, 2 * D, 1, X), "left": zeros(B, D, 1, 1)}

    def row(self, state: dict[str, Tensor], row: int, v: Tensor) -> Tensor:
        """The vertical stack at a whole row."""
        below = self.down.conv(F.pad(torch.cat([state["above"], v], 2), (1, 1)))
        state |= {"above": v, "told": self.tell(below), "left": torch.zeros_like(state["left"])}
        return gate(below)

    def step(self, state: dict[str, Tensor], row: int, column: int, h: Tensor, before: Tensor) -> Tensor:
        """The horizontal stack at one pixel."""
        across = self.across.conv(torch.cat([state["left"], h], 3))
        state["left"] = h
        return h + self.out(gate(across + state["told"][..., column : column + 1]))


class SnailBlock(nn.Module):
    """Two gated residual convolutions, then attention to every earlier pixel (2018, figure 2).

    A feature knows of pixels before its own, so it may attend to itself; beside features stand the previous
    pixels, without which the end of the row above would go unseen.
    """

    HEAD = 16

    def __init__(self, width: int, inputs: int):
        super().__init__()
        self.convs = nn.ModuleList(Masked(width, width) for _ in range(2))
        self.gates = nn.ModuleList(nn.Conv2d(width, 2 * width, 1) for _ in range(2))
        heads, told = max(1, width // (2 * self.HEAD)), width + inputs + 2
        self.query, self.key, self.value = (nn.Conv2d(told, heads * self.HEAD, 1) for _ in range(3))
        self.out = nn.Conv2d(heads * self.HEAD, width, 1)

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """`v` (B, C', Y, X) are the previous pixels, which are handed on."""
        for conv, gates in zip(self.convs, self.gates):
            a, b = gates(F.elu(conv(F.elu(h)))).chunk(2, 1)
            h = h + a * b.sigmoid()
        placed = torch.cat([F.elu(h), v, self._places(h)], 1)
        q, k, v_ = (self._heads(conv(placed)) for conv in (self.query, self.key, self.value))
        seen = (
            attend(q, k, v_, None).transpose(2, 3).flatten(1, 2)
        )  # features at t know pixels before t alone
        return v, h + self.out(seen.unflatten(2, h.shape[2:]))

    def kept(self, B: int, Y: int, X: int, zeros) -> dict[str, Any]:
        """Inputs of the convolutions; keys and values of all earlier pixels."""
        H = self.out.in_channels // self.HEAD
        maps = [margin(B, conv.above.conv.in_channels, Y, X, zeros) for conv in self.convs]
        return {"maps": maps, "size": X, **{name: zeros(B, H, Y * X, self.HEAD) for name in ("key", "value")}}

    def row(self, state: dict[str, Any], row: int, v: Tensor) -> Tensor:
        """There is one stack."""
        return v

    def step(self, state: dict[str, Any], row: int, column: int, h: Tensor, before: Tensor) -> Tensor:
        """Both at one pixel; it attends to itself and to all that is kept."""
        for conv, gates, kept in zip(self.convs, self.gates, state["maps"]):
            a, b = gates(F.elu(conv.at(kept, F.elu(h), row, column))).chunk(2, 1)
            h = h + a * b.sigmoid()
        X = state["size"]
        place = h.new_tensor([row / X - 0.5, column / X - 0.5]).view(1, 2, 1, 1).expand(len(h), -1, -1, -1)
        placed = torch.cat([F.elu(h), before, place], 1)
        q, k, v_ = (self._heads(conv(placed)) for conv in (self.query, self.key, self.value))
        t = row * X + column
        state["key"][:, :, t], state["value"][:, :, t] = k[:, :, 0], v_[:, :, 0]
        seen = F.scaled_dot_product_attention(q, state["key"][:, :, : t + 1], state["value"][:, :, : t + 1])
        return h + self.out(seen.flatten(1)[:, :, None, None])

    def _heads(self, x: Tensor) -> Tensor:
        """(B, H * K, Y, X) -> (B, H, Y * X, K)"""
        return x.flatten(2).unflatten(1, (-1, self.HEAD)).transpose(2, 3)

    def _places(self, h: Tensor) -> Tensor:
        """Row and column of each pixel over the width, so that a crop of rows changes none."""
        B, _, Y, X = h.shape
        rows = torch.arange(Y, device=h.device, dtype=h.dtype)[:, None] / X - 0.5
        columns = torch.arange(X, device=h.device, dtype=h.dtype)[None] / X - 0.5
        return torch.stack([rows.expand(Y, X), columns.expand(Y, X)])[None].expand(B, -1, -1, -1)

"""What image nets have in common: how their parameters are initialised, labels, spectral normalisation."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmkit.errors import ConfigError
from llmkit.models.blocks import fill_normal


def fill(name: str, p: nn.Parameter, generator: torch.Generator, std: float | None = None) -> None:
    """Initialise one parameter: vectors called weight to 1, other vectors to 0, the rest from N(0, std).

    Without `std` it is sqrt(1 / fan in). Embeddings are drawn from N(0, 1).
    """
    leaf = name.rpartition(".")[2]
    if p.ndim < 2:
        nn.init.constant_(p, float(leaf == "weight"))
    elif "embed" in name:
        fill_normal(p, 1.0, generator)
    else:
        fill_normal(p, std or p[0].numel() ** -0.5, generator)


@torch.no_grad()
def fill_uniform(p: nn.Parameter, bound: float, generator: torch.Generator) -> None:
    """Fill `p` from U(-bound, bound), drawn in fp32 on the CPU."""
    drawn = torch.empty(p.shape, dtype=torch.float32, device="cpu")
    p.copy_(drawn.uniform_(-bound, bound, generator=generator))


def kinds(s) -> int:
    """How many labels a net of settings `s` knows: classes, or words of captions and none of them; 0 if it is
    told nothing. ConfigError if the images have neither.
    """
    if s.conditional and not (s.words or s.classes):
        raise ConfigError("model.conditional: the images have no classes or captions; set it to false")
    return (len(s.words) + 1 if s.words else s.classes) if s.conditional else 0


def told(table: Callable[[Tensor], Tensor], label: Tensor) -> Tensor:
    """What a table (K, D) says of labels: the row of a class (B,), the rows of words (B, L) over sqrt(L')
    summed, where L' of them are not 0, which is no word: (B, D).
    """
    if label.ndim == 1:
        return table(label)
    there = (label > 0).float()
    return (table(label) * (there / there.sum(1, keepdim=True).clamp(min=1).sqrt())[..., None]).sum(1)


def one_hot(label: Tensor | None, kinds: int, rows: int, device) -> Tensor:
    """(B, kinds) fp32; nothing known is all zeros."""
    if label is None:
        return torch.zeros(rows, kinds, device=device)
    if label.ndim == 2:
        return F.one_hot(label, kinds).float().amax(1) * (torch.arange(kinds, device=device) > 0)
    return F.one_hot(label, kinds).float()


def groups(channels: int) -> int:
    """Groups of a GroupNorm: a power of two up to 8, each of at least 4 channels if there are as many.

    A group of one channel would take away what the bias before it adds.
    """
    return next(g for g in (8, 4, 2, 1) if channels % g == 0 and (channels >= 4 * g or g == 1))


class Conv2d(nn.Conv2d):
    """A convolution of maps whose channels lie side by side in memory: a CPU is a third faster at these.

    Its result is laid out so, whatever its input is; the weight stays as it is, for checkpoints and ZeRO.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.in_channels == 1 and x.device.type == "cpu":
            return of_patches(x, self.weight, self.bias, self.stride, self.padding)
        return self._conv_forward(x, self.weight.contiguous(memory_format=torch.channels_last), self.bias)


def of_patches(x: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]):
    """conv2d of maps x (B, 1, Y, X) with weight (O, 1, k, l), as one product: (B, O, Y', X').

    oneDNN's kernels for a single channel are slow backwards, and lay its result out in another way than
    the layers that follow.
    """
    (down, right), (above, left) = stride, padding
    outputs, _, height, width = weight.shape
    padded = F.pad(x[:, 0], (left, left, above, above))
    patches = padded.unfold(1, height, down).unfold(2, width, right)  # (B, Y', X', k, l), not copied yet
    out = F.linear(patches.flatten(3), weight.view(outputs, -1), bias)
    return out.permute(0, 3, 1, 2)


DOUBLING = ((4, 4), (2, 2), (1, 1))
"""Kernel, stride and padding of a transposed convolution that makes four pixels of each."""


class ConvTranspose2d(nn.ConvTranspose2d):
    """The same of a transposed convolution; one that doubles maps to a grey image is `doubled`."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        if self.out_channels == 1 and (self.kernel_size, self.stride, self.padding) == DOUBLING:
            return doubled(x, self.weight, self.bias)
        weight = self.weight.contiguous(memory_format=torch.channels_last)
        return F.conv_transpose2d(x, weight, self.bias, self.stride, self.padding)


def doubled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """conv_transpose2d(x, weight, bias, stride=2, padding=1) for 4 x 4 kernels, as one convolution of 3 x 3.

    Each of the four pixels that an input becomes is a channel of it (Shi et al. 2016): x (B, I, Y, X), weight
    (I, O, 4, 4) -> (B, O, 2Y, 2X). Half the time of the other where O is 1, twice where O is 16. An even
    row of the result meets the input's row before with the kernel's row 3, its own with 1; an odd one its own
    with 2, the next with 0.
    """
    kernel = F.pad(weight, (1, 1, 1, 1)).unflatten(3, (3, 2)).unflatten(2, (3, 2)).flip(2, 4)
    kernel = kernel.permute(1, 3, 5, 0, 2, 4).flatten(0, 2).contiguous(memory_format=torch.channels_last)
    return F.pixel_shuffle(F.conv2d(x, kernel, bias.repeat_interleave(4), padding=1), 2)


class Spectral(nn.Module):
    """A layer whose weight is divided by its largest singular value (Miyato et al. 2018, algorithm 1).

    One power iteration every training forward goes on from the vector `u`, so the estimate depends on how
    many forwards a step has: figures of different accumulations agree closely, not to rounding.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d):
        super().__init__()
        self.layer = layer
        self.register_buffer("u", torch.empty(layer.weight.shape[0]))
        self.reset_running_stats()

    def reset_running_stats(self) -> None:
        """Any direction will do to start from."""
        nn.init.constant_(self.u, self.u.numel() ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.layer.weight
        matrix = weight.flatten(1)
        with torch.no_grad():
            v = F.normalize(matrix.T @ self.u, dim=0)
            u = F.normalize(matrix @ v, dim=0)
            if self.training:
                self.u.copy_(u)
        weight = weight / (u @ (matrix @ v))
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight, self.layer.bias)
        return F.conv2d(x, weight, self.layer.bias, self.layer.stride, self.layer.padding)

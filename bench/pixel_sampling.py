"""Seconds to draw images pixel by pixel: from what is kept of earlier pixels, and by a forward for each.

python bench/pixel_sampling.py
"""

import time

import torch

from llmkit.models.blocks import initialise
from llmkit.vision import noise, pixels
from llmkit.vision.pixel import Pixel


@torch.no_grad()
def whole(net: Pixel, key: torch.Tensor) -> torch.Tensor:
    """The images of `net.sample`, by a forward over the rows so far for each pixel."""
    s = net.settings
    x = torch.zeros(len(key), s.channels, s.size, s.size)
    u = noise.uniform(key, "pixels", (s.size, s.size, s.components + s.channels))
    for row in range(s.size):
        for column in range(s.size):
            out = net(x[:, :, : row + 1])[:, :, row, column]
            x[:, :, row, column] = pixels.draw(s, out, u[:, row, column], 1.0)
    return (x + 1) / 2


def main() -> None:
    torch.set_num_threads(1)
    print("| net | kept, s | forward each, s | ratio | pixels that differ |\n|---|---|---|---|---|")
    for kind in ("pixelcnn", "gated", "snail"):
        settings = Pixel.Settings(net=kind, width=32, layers=5, size=28, channels=1)
        with torch.device("meta"):
            net = Pixel(settings)
        net, key = initialise(net, 1).eval(), noise.keys(0, 16)
        seconds, images = [], []
        for draw in (net.sample, lambda key, net=net: whole(net, key)):
            began = time.process_time()
            images.append(draw(key))
            seconds.append(time.process_time() - began)
        differ = int((images[0] != images[1]).sum())
        print(
            f"| {kind} | {seconds[0]:.1f} | {seconds[1]:.1f} | {seconds[1] / seconds[0]:.1f} | {differ} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""Films of a run: the pictures of one kind that evaluations left in its samples/, one after the other.

samples/step_00000200_samples.png, step_00000400_samples.png, ... ─► samples/film_samples.gif

The noise behind a grid of samples is the same at every evaluation: a film shows what becomes of each image.
"""

import io
from pathlib import Path

FRAME_S = 0.4
LAST_S = 2.0
"""How long the newest picture stands before the film begins again."""
MOST = 100
"""Frames of a film: of more pictures, so many are taken at equal distances, the newest among them."""


def gif(frames: list, seconds: float = FRAME_S, last: float | None = None) -> bytes:
    """An endless GIF of Pillow images, all of one size and mode."""
    content = io.BytesIO()
    times = [*[round(1000 * seconds)] * (len(frames) - 1), round(1000 * (last or seconds))]
    frames[0].save(content, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
    return content.getvalue()


def shown(folder: Path, kind: str = "samples.png") -> list[Path]:
    """The pictures of one kind in a run's samples/, oldest first."""
    return sorted(folder.glob(f"step_*_{kind}"))


def write(folder: Path, kind: str = "samples.png") -> Path | None:
    """Make the film of one kind of picture in a run's samples/ -> its file; None of fewer than two."""
    from PIL import Image

    files = shown(folder, kind)
    if len(files) < 2:
        return None
    apart = max(1.0, (len(files) - 1) / (MOST - 1))
    chosen = [files[round(len(files) - 1 - i * apart)] for i in range(int((len(files) - 1) / apart) + 1)]
    path = folder / f"film_{Path(kind).stem}.gif"
    path.write_bytes(gif([Image.open(file) for file in reversed(chosen)], last=LAST_S))
    return path

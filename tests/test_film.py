"""A film holds the pictures of a run in their order, the newest last."""

import io

import numpy as np
from PIL import Image

from llmkit import film


def pictures(folder, count: int, kind: str = "samples.png") -> None:
    for i in range(count):
        Image.fromarray(np.full((4, 6), 2 * i, np.uint8)).save(folder / f"step_{i:08d}_{kind}")


def greys(path) -> list[int]:
    with Image.open(path) as content:
        out = []
        for i in range(content.n_frames):
            content.seek(i)
            out.append(int(np.asarray(content.convert("L"))[0, 0]))
        return out


def test_a_film_shows_every_picture_of_its_kind_in_order(tmp_path):
    pictures(tmp_path, 5)
    pictures(tmp_path, 9, "reconstructions.png")
    path = film.write(tmp_path)
    assert path.name == "film_samples.gif"
    assert greys(path) == [0, 2, 4, 6, 8]


def test_of_one_picture_there_is_no_film(tmp_path):
    pictures(tmp_path, 1)
    assert film.write(tmp_path) is None


def test_a_long_run_is_shown_in_a_hundred_pictures_the_newest_among_them(tmp_path):
    pictures(tmp_path, 127)
    shown = greys(film.write(tmp_path))
    assert len(shown) <= film.MOST
    assert (shown[0], shown[-1]) == (0, 252)
    assert shown == sorted(set(shown))


def test_a_gif_turns_for_ever():
    frames = [Image.fromarray(np.full((2, 2), grey, np.uint8)) for grey in (0, 200)]
    with Image.open(io.BytesIO(film.gif(frames, 0.25, 1.0))) as content:
        assert content.info["loop"] == 0
        assert content.info["duration"] == 250

"""Models that are told captions: a set of words, of which they learn what each does to an image."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from llmkit.cli import main
from llmkit.errors import ConfigError, DataError
from llmkit.eval.compare import compare
from llmkit.eval.metrics import captions
from llmkit.models.blocks import initialise
from llmkit.vision.layers import kinds, one_hot, told
from llmkit.vision.pixel import Pixel
from llmkit.vision.vae import Vae
from tests import ranks
from tests.vision import small

WORDS = ("many", "few", "rows", "columns")


def test_a_caption_is_the_sum_of_its_words_over_the_root_of_their_number():
    table = nn.Embedding(5, 3)
    label = torch.tensor([[1, 3, 0], [3, 0, 1], [0, 0, 0], [2, 0, 0]])
    found = told(table, label)
    torch.testing.assert_close(found[0], (table.weight[1] + table.weight[3]) / 2**0.5)
    torch.testing.assert_close(found[1], found[0])
    assert not found[2].any()
    torch.testing.assert_close(found[3], table.weight[2])
    assert torch.equal(told(table, torch.tensor([4, 0])), table.weight[[4, 0]])
    assert one_hot(label, 5, 4, "cpu").tolist()[:3] == [[0, 1, 0, 1, 0], [0, 1, 0, 1, 0], [0] * 5]


def test_nothing_to_be_told_is_refused():
    shape = {"size": 4, "channels": 1, "conditional": True}
    assert kinds(Pixel.Settings(**shape, words=WORDS)) == 5
    assert kinds(Pixel.Settings(**shape, classes=3)) == 3
    for settings in (
        Pixel.Settings(**shape, classes=0, words=()),
        Vae.Settings(**shape, classes=0, words=()),
    ):
        with pytest.raises(ConfigError, match="the images have no classes or captions"):
            kinds(settings)


@torch.no_grad()
@pytest.mark.parametrize("net", ["pixelcnn", "gated", "snail"])
def test_what_is_drawn_pixel_by_pixel_is_what_a_whole_forward_says_of_the_caption(net):
    settings = Pixel.Settings(size=4, channels=1, net=net, width=8, layers=2, conditional=True, words=WORDS)
    made = initialise(Pixel(settings), seed=1).eval()
    label, seen = torch.tensor([[1, 3], [2, 0]]), {}

    def choose(out, row, column):
        seen[row, column] = out
        return (out > 0).float() * 2 - 1

    x = made.drawn(2, label, choose)
    whole = made(x, label)
    for (row, column), out in seen.items():
        torch.testing.assert_close(out, whole[:, :, row, column], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(made(x, label), made(x, label.flip(0)))


def stripes(folder, shuffled=False):
    """200 images, 8 x 8: few or many white rows or columns, and captions that say so."""
    draw = np.random.default_rng(0)
    way, number = draw.integers(0, 2, (2, 200))
    images, captions = np.zeros((200, 8, 8), np.uint8), []
    for image, w, n in zip(images, way, number, strict=True):
        (image.T if w else image)[draw.random(8) < (0.75 if n else 0.25)] = 255
        captions.append(f"{('few', 'many')[n]} white {('rows', 'columns')[w]}")
    path = folder / f"stripes{shuffled}.npz"
    np.savez(path, images=images, captions=draw.permutation(captions) if shuffled else captions)
    return path


MODEL = {
    "model__net": "pixelcnn",
    "objective__binarise": "threshold",
    "data__captions": True,
    "data__heldout_frac": 0.3,
    "model__layers": 2,
    "run__steps": 120,
    "run__save_every": 120,
    "optim__lr": 1e-2,
    "batch__rows": 32,
    "batch__micro_rows": 32,
}


def learnt(data: list[str], out: list[str]) -> None:
    for source, place in zip(data, out, strict=True):
        small.train(source, place, "pixel", MODEL)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A model of true captions, and one of captions that belong to other images."""
    folder = tmp_path_factory.mktemp("captions")
    data = [str(stripes(folder, shuffled)) for shuffled in (False, True)]
    out = [str(folder / name) for name in ("true", "shuffled")]
    ranks.run(learnt, 1, data, out, timeout_s=300)
    return dict(zip(("true", "shuffled"), zip(data, out, strict=True), strict=True))


def measured(run: tuple[str, str], out, capsys, **images) -> dict:
    task = {
        "name": "captions",
        "images": {"source": run[0], "captions": True, "heldout_frac": 0.3} | images,
        "others": 2,
    }
    suite = out / "suite.yaml"
    suite.write_text(json.dumps({"tasks": {"captions": task}}))
    code = main(["eval", run[1], "--suite", str(suite), "--out", str(out / "eval"), "--device", "cpu"])
    if code:
        return {"code": code, "line": capsys.readouterr().err}
    return json.loads((out / "eval" / "report.json").read_text())["tasks"]["captions"]


@pytest.mark.slow
def test_true_captions_are_told_from_others_and_shuffled_ones_are_not(runs, tmp_path, capsys):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    true, shuffled = (
        measured(runs[name], tmp_path / place, capsys) for name, place in (("true", "a"), ("shuffled", "b"))
    )
    assert true["accuracy"] > 0.8 > 0.7 > shuffled["accuracy"], (true, shuffled)
    assert true["chance"] == pytest.approx(1 / 3)
    assert true["gain_nats"] > 5 > abs(shuffled["gain_nats"])
    (tmp_path / "c").mkdir()
    measured(runs["true"], tmp_path / "c", capsys, rows=40)
    with pytest.raises(DataError, match="heldout"):  # the same places of other images are no pairs
        compare(tmp_path / "a" / "eval", tmp_path / "c" / "eval")


@torch.no_grad()
def test_a_black_or_white_pixel_is_not_told_of_grey_neighbours():
    settings = Pixel.Settings(size=4, channels=1, width=8, layers=2, conditional=True, words=WORDS)
    net = initialise(Pixel(settings), seed=1).eval()
    grey = torch.randint(0, 256, (3, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    label = torch.tensor([[1, 3], [2, 0], [4, 1]])
    black_or_white = SimpleNamespace(images=(grey > 127).to(torch.uint8) * 255)
    found = [captions._nll(net, images, label) for images in (SimpleNamespace(images=grey), black_or_white)]
    assert np.array_equal(*found)


@pytest.mark.slow
def test_images_are_drawn_as_a_caption_says(runs, tmp_path, capsys):
    seen = {}
    for caption in ("many white rows", "Rows, white, MANY!", "many white columns", "few white rows"):
        out = tmp_path / "x.png"
        words = ["sample", runs["true"][1], "--out", str(out), "--count", "1", "--caption", caption]
        assert main([*words, "--device", "cpu"]) == 0
        seen[caption] = np.asarray(Image.open(out), float).reshape(96, 96, -1)[16:80:8, 16:80:8, 0] / 255
    assert np.array_equal(seen["many white rows"], seen["Rows, white, MANY!"])
    across = {caption: (np.diff(image, axis=1) != 0).sum() for caption, image in seen.items()}
    down = {caption: (np.diff(image, axis=0) != 0).sum() for caption, image in seen.items()}
    assert across["many white rows"] < down["many white rows"], seen["many white rows"]
    assert down["many white columns"] < across["many white columns"], seen["many white columns"]
    assert seen["few white rows"].mean() < seen["many white rows"].mean()


@pytest.mark.slow
def test_what_cannot_be_asked_is_refused_in_a_line(runs, tmp_path, capsys):
    out = ["--out", str(tmp_path / "x.png"), "--count", "1", "--device", "cpu"]
    assert main(["sample", runs["true"][1], *out, "--caption", "volcano"]) == 2
    assert "--caption: no word that the model knows; it knows white, many, " in capsys.readouterr().err
    assert main(["sample", runs["true"][1], *out, "--class", "0"]) == 2
    assert (
        "--class: 0 is not a class of the model, which knows captions: --caption" in capsys.readouterr().err
    )
    (tmp_path / "c").mkdir()
    found = measured(runs["true"], tmp_path / "c", capsys, heldout_frac=0.9)
    assert found["code"] == 2
    assert "their captions are not of the words that the model was trained on" in found["line"]
    begun = {"init": runs["true"][1], "data__heldout_frac": 0.9}
    ended = ranks.spawn(small.train, 1, runs["true"][0], str(tmp_path / "run"), "pixel", MODEL | begun)
    assert ended[0].code == 2
    assert "data: its captions have 5 words, others than the 5 that" in ended[0].text

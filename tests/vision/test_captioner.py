"""Captioners: what they read of an image, how they write, and that what they write is about the image."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from llmkit.cli import main
from llmkit.data.sets.captioned import Captioned
from llmkit.errors import ConfigError
from llmkit.eval import captioning
from llmkit.models.beam import search
from llmkit.models.blocks import initialise
from llmkit.models.generate import Reader, generate
from llmkit.opened import open_model
from llmkit.vision.captioner import Captioner
from tests import ranks
from tests.vision import small

STYLES = ("t5", "transformer", "bart")


def made(style: str = "t5", **changes) -> Captioner:
    shape = {"width": 16, "layers": 2, "heads": 2, "size": 8, "channels": 3, "vocab_size": 29, "context": 12}
    settings = Captioner.Settings(style=style, **{**shape, **changes})
    return initialise(Captioner(settings), seed=3).eval()


def images(count: int) -> torch.Tensor:
    return torch.randint(256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def texts(count: int, length: int) -> torch.Tensor:
    return torch.randint(29, (count, length), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_an_image_is_read_patch_by_patch_from_the_top_left():
    net, x = made(), images(2)
    found = net.embed_source(x)
    kernel = net.embed_patches.weight.view(16, 3, 4, 4)
    wanted = torch.conv2d(x / 127.5 - 1, kernel, net.embed_patches.bias, 4).flatten(2).mT
    torch.testing.assert_close(found, wanted + net.embed_places.weight, atol=1e-5, rtol=1e-5)
    assert net.encode(x).shape == (2, 4, 16)


def test_every_parameter_learns_and_every_pixel_is_seen():
    net, x = made(), images(2)
    net.embed_patches.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0]))
    seen: list[torch.Tensor] = []
    net.nll(texts(2, 5), None, texts(2, 5), source=x).sum().backward()
    assert [name for name, p in net.named_parameters() if not p.grad.any()] == []
    patches = seen[0].detach().requires_grad_()
    memory = net.encoder(net.embed_patches(patches) + net.embed_places.weight, net.one_document(x))
    memory[:, 0].sum().backward()
    assert patches.grad.bool().all()


@torch.no_grad()
@pytest.mark.parametrize("style", STYLES)
def test_reading_a_caption_word_by_word_is_reading_it_at_once(style):
    net, x, tokens = made(style), images(3), texts(3, 6)
    whole = net.logits(net.hidden(tokens, source=x))
    reader = Reader(net, x, 6, start=[0])
    reader._tokens = tokens[:, :1]
    for place in range(6):
        torch.testing.assert_close(reader.step(), whole[:, place], atol=1e-5, rtol=1e-5)
        reader.read(tokens[:, place + 1] if place < 5 else tokens[:, place])


@torch.no_grad()
@pytest.mark.parametrize("style", STYLES)
def test_a_caption_does_not_depend_on_the_images_beside_it_or_on_the_cache(style):
    net, x = made(style, init_scale=2.0), images(4)
    x[3] = x[1]
    options = {"stop": [2], "start": [1]}
    together = generate(net, x, 8, **options)
    assert together[3] == together[1]
    assert len({tuple(one) for one in together}) > 1 or style != "t5"
    assert [generate(net, one[None], 8, **options)[0] for one in x] == together
    assert generate(net, x, 8, cache=False, **options) == together
    beams = search(net, x, 8, beams=3, **options)
    assert [search(net, one[None], 8, beams=3, **options)[0] for one in x] == beams


def test_padding_changes_neither_loss_nor_gradient():
    found = []
    for longer in (0, 7):
        net, tokens, labels = made(), texts(2, 5), texts(2, 5)
        segments = torch.ones(2, 5, dtype=torch.int32)
        pad = (0, longer)
        tokens, segments, labels = (
            torch.nn.functional.pad(value, pad, value=fill)
            for value, fill in ((tokens, 3), (segments, 0), (labels, -100))
        )
        loss = net.nll(tokens, segments, labels, source=images(2)).sum()
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in net.parameters())])
    for short, long in zip(*found, strict=True):
        torch.testing.assert_close(short, long, atol=1e-5, rtol=1e-5)


def test_images_that_no_patches_fill_are_refused():
    with pytest.raises(ConfigError, match=r"model\.patch: 3 does not divide the images' size of 8"):
        made(patch=3)
    with pytest.raises(ConfigError, match=r"model\.context: 12 is less than the 16 patches"):
        made("bart", patch=2)


# ---- whole runs --------------------------------------------------------------------------------------------

COLOURS = {"red": (230, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 230), "white": (255, 255, 255)}
SHAPES = {
    "square": lambda y, x: abs(y - 3.5) + 0 * x < 2,
    "column": lambda y, x: abs(x - 3.5) + 0 * y < 1.5,
    "corner": lambda y, x: y + x < 6,
    "cross": lambda y, x: abs(y - x) < 1.5,
}


def folder(path, blank=False):
    """Sixteen images of colours and shapes, some of them twice so that there are some to hold out."""
    y, x = np.mgrid[0:8, 0:8]
    lines = []
    path.mkdir(exist_ok=True)
    for copy in range(4):
        for colour, rgb in COLOURS.items():
            for shape, inside in SHAPES.items():
                image = np.where(inside(y, x)[..., None], rgb, 40 + copy).astype(np.uint8)
                name = f"{colour}_{shape}_{copy}.png"
                Image.fromarray(np.zeros_like(image) if blank else image).save(path / name)
                lines.append(json.dumps({"file_name": name, "text": f"a {colour} {shape}"}))
    (path / "metadata.jsonl").write_text("\n".join(lines))
    return str(path)


LEARN = {
    "model__width": 32,
    "model__patch": 2,
    "model__vocab_size": None,
    "data__seq_len": 16,
    "data__heldout_frac": 0.25,
    "run__steps": 200,
    "run__save_every": 200,
    "run__eval_every": 200,
    "run__eval_rows": 64,
    "batch__rows": 16,
    "batch__micro_rows": 16,
    "optim__lr": 3e-3,
}


def learnt(data: str, out: str) -> None:
    small.train(data, f"{out}/seeing", "captioner", LEARN)
    small.train(data, f"{out}/blind", "captioner", {**LEARN, "data__blank": True})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A captioner of sixteen kinds of images, and one that has seen nothing but black."""
    out = tmp_path_factory.mktemp("captioners")
    ranks.run(learnt, 1, folder(out / "data"), str(out), timeout_s=300)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("run", ["seeing", "blind"])
def test_sixteen_images_are_all_named_right_by_a_net_that_sees_them(run, runs):
    opened = open_model(runs / run, "caption")
    data = Captioned(Captioned.Settings(source=str(runs / "data"), seq_len=16), "train", 0)
    different = dict(zip(data.texts, data.images, strict=True))
    said = captioning.written(opened, torch.stack(list(different.values())), 15)
    assert len(different) == 16
    right = sum(a == b for a, b in zip(said, different, strict=True))
    assert right == 16 if run == "seeing" else right <= 1


@pytest.mark.slow
def test_an_evaluation_says_what_seeing_is_worth(runs, tmp_path):
    task = {
        "name": "captioning",
        "images": {"source": str(runs / "data"), "seq_len": 16, "heldout_frac": 0.25},
        "blind": str(runs / "blind"),
    }
    suite = tmp_path / "suite.yaml"
    suite.write_text(json.dumps({"tasks": {"captioning": task}}))
    found = {}
    for run in ("seeing", "blind"):
        out = tmp_path / run
        assert (
            main(["eval", str(runs / run), "--suite", str(suite), "--out", str(out), "--device", "cpu"]) == 0
        )
        found[run] = json.loads((out / "report.json").read_text())["tasks"]["captioning"]
    seeing, blind = found["seeing"], found["blind"]
    assert seeing["exact_match"] > 0.9 > 0.3 > seeing["exact_match_shuffled"], seeing
    assert seeing["nats_by_seeing_ci95"][0] > 1.5, seeing  # log 16 = 2.8 nats are to be had
    assert seeing["word_f1_above_constant_ci95"][0] > 0.2, seeing
    line = json.loads((runs / "blind" / "metrics.jsonl").read_text().splitlines()[-1])
    data = Captioned(Captioned.Settings(**task["images"]), "heldout", 0)
    size = np.mean([len(text) for text in data.texts]) * np.log(2)  # bits per byte to nats per caption
    told = line["heldout/bits_per_byte"] * size
    assert seeing["nats_per_caption_blind"] == pytest.approx(told, rel=1e-4)
    assert abs(blind["word_f1_above_shuffled"]) < 0.1 < seeing["word_f1_above_shuffled"], blind


@pytest.mark.slow
def test_a_file_is_captioned_alike_from_a_run_and_its_export(runs, tmp_path, capsys):
    assert main(["export", str(runs / "seeing"), str(tmp_path / "hf")]) == 0
    picture = Image.open(runs / "data" / "red_cross_0.png")
    picture.resize((64, 64), Image.Resampling.NEAREST).save(tmp_path / "big.png")
    capsys.readouterr()
    for ckpt in (runs / "seeing", tmp_path / "hf"):
        for more in ([], ["--beams", "3"]):
            words = ["generate", str(ckpt), "--image", str(tmp_path / "big.png"), "--device", "cpu", *more]
            assert main(words) == 0
            assert capsys.readouterr().out.splitlines()[-1] == "a red cross"
    assert "llmkit generate seeing --image picture.png" in (tmp_path / "hf" / "README.md").read_text()
    assert (runs / "seeing" / "samples" / "step_00000200_captions.png").stat().st_size > 1000
    for words, line in (
        ([], "give --prompt to go on with, or --image to caption"),
        (["--prompt", "x", "--image", "x"], "give --prompt to go on with, or --image to caption"),
        (["--prompt", "x"], "is a captioner of images, a language model is needed"),
        (["--image", str(tmp_path / "no.png")], "no.png is no file; give an image"),
        (["--image", str(tmp_path / "hf" / "config.json")], "1 cannot be decoded"),
        (["--image", str(tmp_path / "big.png"), "--beams", "0"], "--beams: 0 has to be at least 1"),
    ):
        assert main(["generate", str(runs / "seeing"), "--device", "cpu", *words]) in (2, 3, 4)
        assert line in capsys.readouterr().err


def test_likelihoods_of_captions_are_of_the_images_that_they_are_given(tmp_path):
    data = Captioned(Captioned.Settings(source=folder(tmp_path / "x"), seq_len=16), "heldout", 0)
    net = made(vocab_size=data.vocab_size, context=16)
    own, other = (captioning.nll(net, data, x) for x in (data.images, data.images.roll(1, 0)))
    alone = captioning.nll(net, SimpleNamespace(batch=lambda rows: data.batch([(0, 2)])), data.images[2:3])
    assert own[2] == pytest.approx(alone[0], abs=1e-5)
    assert np.abs(own - other).min() > 0

"""Models of images in a pipeline's report: newest grids, held-out figures, the evaluation of each."""

import torch

from llmkit import manifest
from llmkit.report import pipeline
from llmkit.vision import gallery

EVALUATION = {
    "metric": "frechet", "frechet": 1.25, "frechet_of_heldout": 0.25, "kid": 0.01, "precision": 0.8,
    "recall": 0.5, "class_hits": None, "class_hits_of_heldout": 0.97, "samples": 1000,
    "extractor": "recogniser 3fa2", "reference": "mnist-5k, 4500 training images",
}  # fmt: skip


def built(root) -> list[dict]:
    """A VAE with grids of two steps, its evaluation, and a language model that has nothing to show here."""
    data = {"name": "images", "source": "mnist-5k"}
    stages = {
        "vae": ("train", {"objective": {"name": "vae"}, "data": data, "model": {"name": "vae"},
                          "batch": {"rows": 128}, "run": {"seed": 7}},
                {"steps": 10, "train_seconds": 2.0, "heldout/loss": 101.5, "heldout/kl": 20.25}),
        "text": ("train", {"objective": {"name": "causal"}, "data": {"name": "packed"}}, {}),
        "eval_vae": ("eval", {"ckpt": f"{root}/vae"}, {}),
    }  # fmt: skip
    for name, (verb, config, result) in stages.items():
        manifest.write(root / name, verb=verb, config=config, result={"fingerprint": name, **result})
    manifest.write_json(root / "eval_vae" / "report.json", {"tasks": {"digits": EVALUATION}})
    for step in (5, 10):
        for name in ("samples", "reconstructions"):
            file = root / "vae" / "samples" / f"step_{step:08d}_{name}.png"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(gallery.sheet(torch.full((4, 1, 8, 8), step / 10)))
    return [
        {"name": n, "verb": verb, "out": str(root / n), "seconds": 3.0, "status": "done"}
        for n, (verb, *_) in stages.items()
    ]


def test_models_of_images_have_a_part_with_grids_and_distances(tmp_path, read):
    page = pipeline.write(tmp_path, built(tmp_path)).read_text()
    (name, facts), *others = read(tmp_path / "report.json")["vision"].items()
    assert (name, others) == ("vae", [])
    assert facts["images_per_second"] == 640
    assert facts["heldout"] == {"loss": 101.5, "kl": 20.25}
    names = [file.rpartition("/")[2] for file in facts["samples"]]
    assert names == ["step_00000010_reconstructions.png", "step_00000010_samples.png"]
    assert facts["evaluation"]["frechet"] == 1.25
    assert "class_hits" not in facts["evaluation"]
    assert page.count("data:image/png;base64,") == 2
    assert "real held-out images" in page
    assert "they are no FID" in page


def test_a_pipeline_without_images_has_no_such_part(tmp_path, read):
    rows = [row for row in built(tmp_path) if row["name"] == "text"]
    assert 'id="vision"' not in pipeline.write(tmp_path, rows).read_text()
    assert "vision" not in read(tmp_path / "report.json")

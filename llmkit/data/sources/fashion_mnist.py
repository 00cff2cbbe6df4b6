"""Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 grey images of clothes, 28 x 28, ten classes."""

from typing import Literal

from llmkit.config import Section
from llmkit.data import fetch, pictures
from llmkit.registry import register

PACKAGE = fetch.Package(
    "debian", "dataset-fashion-mnist", "0.0~git20200523.55506a9-1",
    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
)  # fmt: skip
CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


@register("source", "fashion-mnist")
class FashionMnist:
    """The idx files of the Debian package, with their own split."""

    class Settings(Section):
        name: Literal["fashion-mnist"] = "fashion-mnist"

    kind = "images"
    licence = "MIT"
    origin = "Debian dataset-fashion-mnist 0.0~git20200523.55506a9-1 (Zalando)"
    size = "70,000 images, 28 x 28 grey"
    counts = {"images": 70_000}

    def __init__(self, settings: Settings):
        self.settings = settings

    def splits(self) -> dict[str, pictures.Pictures]:
        """{"train", "heldout"}: 60,000 and 10,000."""
        found = dict(fetch.members(PACKAGE, "./usr/share/datasets/fashion-mnist/*-ubyte.gz"))
        files = {name.rpartition("/")[2]: pictures.idx(content, name) for name, content in found.items()}
        prefixes = {"train": "train", "heldout": "t10k"}
        return {split: self._part(files, prefix) for split, prefix in prefixes.items()}

    def _part(self, files, prefix: str) -> pictures.Pictures:
        images, labels = (files[f"{prefix}-{kind}-ubyte.gz"] for kind in ("images-idx3", "labels-idx1"))
        return pictures.labelled(images, labels, str(PACKAGE), CLASSES)

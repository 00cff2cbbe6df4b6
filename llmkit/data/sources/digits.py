"""1,797 handwritten digits, 8 x 8 with 17 grey levels (Alpaydin & Kaynak 1998), out of scikit-learn."""

from typing import Literal

import numpy as np

from llmkit.config import Section
from llmkit.data import pictures
from llmkit.errors import ConfigError
from llmkit.registry import register


@register("source", "digits")
class Digits:
    """scikit-learn's copy, read from the installed package; grey levels stretched to 0..255."""

    class Settings(Section):
        name: Literal["digits"] = "digits"

    kind = "images"
    licence = "CC BY 4.0"
    origin = "scikit-learn, from UCI Optical Recognition of Handwritten Digits"
    size = "1,797 images, 8 x 8 grey"
    counts = {"images": 1797}

    def __init__(self, settings: Settings):
        self.settings = settings

    def splits(self) -> dict[str, pictures.Pictures]:
        """{"all": ...}. ConfigError if scikit-learn is not installed."""
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise ConfigError(
                "data.source: digits are in scikit-learn; pip install 'llmkit[vision]'"
            ) from None
        found = load_digits()
        grey = np.round(found.images * (255 / 16)).astype(np.uint8)
        return {"all": pictures.labelled(grey, found.target, "digits")}

"""Images as rows: the catalogue's, a folder's, an archive's; whole and decoded in memory, one size for all.

    batch   image (B, C, Y, X) uint8      label (B,) int64      key (B,) int64      valid (B,) bool
                                          with captions (B, L): the words' numbers, 0 where there is none

`key` is a number made of the run's seed and the global sample number: all that is random about a row, here
and later in a loss (shifts, flips, dequantisation, latent noise), is a function of it, so any number of ranks
sees the same images and noise.
"""

import functools
import hashlib
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from xxhash import xxh3_64_intdigest

from llmkit import registry
from llmkit.config import Section
from llmkit.data import pictures, tables
from llmkit.data.captions import numbered, vocabulary
from llmkit.data.order import subset
from llmkit.errors import ConfigError
from llmkit.log import say
from llmkit.registry import register
from llmkit.splitmix import mix, mixed

AUGMENT = 0xA061
"""Keeps draws for augmentation apart from those that losses make of the same key."""


@register("dataset", "images")
class Images:
    """One split of a set of images. `size`, `channels` and `classes` tell a model what it has to fit."""

    class Settings(Section):
        name: Literal["images"] = "images"
        source: str = Field(
            description="a set of the catalogue; the path of a folder, .npz, .parquet or idx directory; or "
            "hub:OWNER/NAME, of the Hugging Face hub"
        )
        image_column: str | None = Field(
            None, description="of a table: what holds the images; default: the first that does"
        )
        label_column: str | None = Field(
            None, description="of a table: the class, a number or a text; default: `label`, if it is there"
        )
        captions: bool = Field(
            False, description="tell models the words of an image's caption in place of its class"
        )
        caption_column: str = Field(
            "text", description="of a table, or of a folder's metadata.jsonl: what holds the captions"
        )
        size: int | None = Field(None, gt=0, description="height and width; default: as the images are")
        fit: Literal["crop", "pad"] = Field(
            "crop", description="crop: scale and keep the middle; pad: black around it"
        )
        channels: Literal[1, 3] | None = Field(
            None, description="1 grey, 3 colour; default: as the images are"
        )
        flip: bool = Field(False, description="mirror half of the training images, left to right")
        shift: int = Field(
            0, ge=0, description="move training images by up to so many pixels, edges repeated"
        )
        heldout_frac: float = Field(
            0.1, gt=0, lt=1, description="share held out, where the source has no split"
        )
        rows: int | None = Field(
            None, gt=0, description="use so many images of the split only, the same ones in every run"
        )
        only_with = {
            "fit": ("size",), "caption_column": ("captions",), "captions": ("model.conditional",),
        }  # fmt: skip
        quick_values: ClassVar[dict[str, Any]] = {"rows": 256}

    tokenizer_dir: Path | None = None
    uncaptioned = "set it to false"

    def __init__(self, settings: Settings, split: Literal["train", "heldout"], seed: int):
        self.settings = settings
        self.licences, splits = _load(settings)
        found = splits[split]
        chosen = subset(len(found.images), settings.rows)  # a folder's first ones are all of one class
        images = np.array(found.images[chosen].transpose(0, 3, 1, 2), order="C")
        self.images, self.labels = torch.from_numpy(images), torch.tensor(found.labels[chosen])
        self.channels, self.size = self.images.shape[1], self.images.shape[2]
        self.classes = len(found.classes)
        self.names = found.classes
        self.fit = settings.fit
        self.words: tuple[str, ...] = ()
        if settings.captions:
            if not splits["train"].captions:
                raise ConfigError(f"data.captions: {settings.source} has none; {self.uncaptioned}")
            self._tell(splits, split, chosen)
        if split == "heldout":
            self._say_known(splits["train"].images)
        self._augment = split == "train" and (settings.flip or settings.shift > 0)
        self._seed = mix(seed) if split == "train" else 0  # held-out draws are the same for every run
        facts = f"{split} {list(images.shape)} {settings.flip} {settings.shift}".encode()
        self.fingerprint = hashlib.sha256(
            facts + images.tobytes() + self.labels.numpy().tobytes()
        ).hexdigest()

    def _say_known(self, trained: np.ndarray) -> None:
        """Say how many of these images are among the ones that are trained on, value for value."""
        trained = trained[subset(len(trained), self.settings.rows)].transpose(0, 3, 1, 2)
        known = {xxh3_64_intdigest(image.tobytes()) for image in trained}
        if count := sum(xxh3_64_intdigest(image.numpy().tobytes()) in known for image in self.images):
            say(f"{self.settings.source}: {count} of {len(self)} held-out images are training images too")

    def _tell(self, splits: dict[str, pictures.Pictures], split: str, chosen: np.ndarray) -> None:
        """Labels are the words of the captions, of which models know those of the training split."""
        captions = {part: found.captions for part, found in splits.items()}
        self.classes, self.names, self.words = 0, (), vocabulary(captions["train"])
        longest = max(numbered(said, self.words).shape[1] for said in captions.values())
        said = [captions[split][place] for place in chosen]
        self.labels = torch.from_numpy(numbered(said, self.words, longest))

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """The rows' images; of no rows at all, one black image that is not valid."""
        places = torch.from_numpy(np.array([row for _, row in rows] or [0]))
        samples = np.array([sample for sample, _ in rows], np.uint64)
        keys = mixed(mixed(samples) ^ np.uint64(self._seed)) if rows else np.zeros(1, np.uint64)
        images = self.images.index_select(0, places)  # a tenth of the time of images[places]
        if self._augment:
            images = torch.stack([self._moved(*pair) for pair in zip(images, keys.tolist(), strict=True)])
        if not rows:
            images = torch.zeros_like(images)
        return {
            "image": images,
            "label": self.labels.index_select(0, places),
            "key": torch.from_numpy(keys.view(np.int64)),
            "valid": torch.full((len(places),), bool(rows)),
        }

    def _moved(self, image: torch.Tensor, key: int) -> torch.Tensor:
        """(C, Y, X), shifted and mirrored as `key` says."""
        draw, reach = mix(key ^ AUGMENT), self.settings.shift
        if reach:
            down, right = (draw >> 8) % (2 * reach + 1), (draw >> 24) % (2 * reach + 1)
            padded = torch.nn.functional.pad(image[None].float(), (reach,) * 4, mode="replicate")[0].to(
                torch.uint8
            )
            image = padded[:, down : down + image.shape[1], right : right + image.shape[2]]
        return image.flip(-1) if self.settings.flip and draw & 1 else image


@functools.lru_cache(maxsize=2)
def _load(settings: Images.Settings) -> tuple[dict[str, Any], dict[str, pictures.Pictures]]:
    """(licence and origin by source, {"train", "heldout"}), decoded once for both splits."""
    name = settings.source
    fit = pictures.fitting(settings.size, settings.channels, settings.fit)
    path, caption = Path(name).expanduser(), settings.caption_column if settings.captions else ""
    if tables.are_in(name):
        found = tables.read(name, fit, settings.image_column, settings.label_column, caption)
        facts = {"licence": "not stated", "origin": name}
    elif path.exists():
        found, facts = pictures.read(path, fit, caption), {"licence": "not stated", "origin": str(path)}
    elif cls := _catalogue().get(name):
        found, facts = cls(cls.Settings()).splits(), {"licence": cls.licence, "origin": cls.origin}
    else:
        known = ", ".join(_catalogue())
        raise ConfigError(
            f"data.source: {name!r} is neither a path nor a known set of images; known: {known}"
        )
    if "all" in found:
        found = pictures.split(found["all"], settings.heldout_frac, name)
    fitted = {s: pictures.fitted(p, settings.size, settings.channels, fit) for s, p in found.items()}
    return {name: facts}, fitted


def _catalogue() -> dict[str, type]:
    """The sources of images by name."""
    sources = {name: registry.find("source", name) for name in registry.names("source")}
    return {name: cls for name, cls in sources.items() if getattr(cls, "kind", "") == "images"}

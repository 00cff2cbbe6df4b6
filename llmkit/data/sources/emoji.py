"""Twitter's emoji: 3,786 drawings, 64 x 64 in colour; names are captions, ten categories the classes."""

import io
import json
from typing import Literal

from llmkit.config import Section
from llmkit.data import fetch, pictures
from llmkit.registry import register

PACKAGE = fetch.Package(
    "npm", "emoji-datasource-twitter", "16.0.0",
    "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
)  # fmt: skip
TONES = {
    "1F3FB": "light", "1F3FC": "medium light", "1F3FD": "medium", "1F3FE": "medium dark", "1F3FF": "dark",
}  # fmt: skip
"""Of the skin, by the code point that asks for it."""


@register("source", "emoji")
class Emoji:
    """The 64-pixel drawings of the npm package; all tones of one emoji are on the same side of the split."""

    class Settings(Section):
        name: Literal["emoji"] = "emoji"

    kind = "images"
    licence = "CC BY 4.0 (drawings); MIT (package)"
    origin = "npm emoji-datasource-twitter 16.0.0 (Twemoji)"
    size = "3,786 images with captions, 64 x 64 in colour"
    counts = {"images": 3786}

    def __init__(self, settings: Settings):
        self.settings = settings

    def splits(self) -> dict[str, pictures.Pictures]:
        """{"all": ...}: there is no split of its own."""
        found = dict(fetch.members(PACKAGE, "package/emoji.json", "package/img/twitter/64/*.png"))
        drawn = {name.rpartition("/")[2]: content for name, content in found.items()}
        entries = sorted(json.loads(drawn.pop("emoji.json")), key=lambda entry: entry["unified"])
        every = [(entry, tones, file) for entry in entries for tones, file in _variants(entry)]
        files = (
            (io.BytesIO(drawn[file]) if file in drawn else "are not in the package", (entry, tones))
            for entry, tones, file in every
        )
        images, kept = pictures.gathered(files, pictures.fitting(64, 3, "pad"), str(PACKAGE))
        classes = tuple(sorted({entry["category"] for entry, _ in kept}))
        labels = [classes.index(entry["category"]) for entry, _ in kept]
        return {
            "all": pictures.labelled(
                images, labels, str(PACKAGE), classes,
                names=tuple(entry["unified"] for entry, _ in kept),
                captions=tuple(_caption(entry, tones) for entry, tones in kept),
            )
        }  # fmt: skip


def _variants(entry: dict) -> list[tuple[str, str]]:
    """(tones of the skin, file) of an emoji: as it is, and in every tone."""
    toned = entry.get("skin_variations", {})
    return [("", entry["image"]), *((tones, variant["image"]) for tones, variant in sorted(toned.items()))]


def _caption(entry: dict, tones: str) -> str:
    """Its name in Unicode, then the tones: "waving hand sign, medium dark skin"."""
    said = " and ".join(dict.fromkeys(TONES[tone] for tone in tones.split("-"))) if tones else ""
    name = (entry["name"] or entry["short_name"]).lower()
    return f"{name}, {said} skin" if said else name

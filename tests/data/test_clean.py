"""Cleaning repairs what no reader would miss, and leaves alone what somebody wrote."""

import pytest

from llmkit.data.clean import clean


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("don\u00e2\u20ac\u2122t", "don\u2019t"),
        ("e\u0301", "\u00e9"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("\ufefftext", "text"),
        ("line  \nnext\t\n", "line\nnext"),
        ("a\n\n\n\n\n\nb", "a\n\n\nb"),
        ("page one\x0c " + "and more of it " * 10, "page one " + ("and more of it " * 10).strip()),
    ],
)
def test_damage_is_repaired(text, cleaned):
    assert clean(text) == (cleaned, None)


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    return 1",
        "two  spaces,\ta tab",
        "\u201cquotes\u201d \ufb01 \uff26\uff55\uff4c\uff4c",
        "&amp; <b>bold</b>",
        "\U0001f469\u200d\U0001f469\u200d\U0001f467",
        "\u65e5\u672c\u8a9e \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
        "  indented first line",
        "a literal \\ud800 and \\x00",
    ],
)
def test_what_was_written_on_purpose_stays(text):
    assert clean(text) == (text, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "empty"), ("\n \t", "empty"), ("\x00\x01\x02abc", "binary"), ("a\ud800", "lone_surrogate")],
)
def test_what_cannot_be_used_has_a_reason(text, reason):
    assert clean(text)[1] == reason


def test_cleaning_twice_changes_nothing_more():
    text = "don\u00e2\u20ac\u2122t \n\n\n\n\nstop\r\n"
    once = clean(text)[0]
    assert clean(once)[0] == once

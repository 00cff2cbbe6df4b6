"""ABC notation bar by bar, against lengths that the standard says."""

from fractions import Fraction

import pytest

from llmkit.eval.abc_notation import read, split

HEAD = "X:1\nT:A tune\nM:4/4\nL:1/8\nK:Ador\n"


def lengths(notes, head=HEAD):
    """The lengths in eighths of all notes of the first bar."""
    return [8 * length for _, length in read(head + notes + "|").bars[0].notes]


@pytest.mark.parametrize(
    ("notes", "eighths"),
    [
        ("A2 B c/ d// e3/2 f/4", [2, 1, "1/2", "1/4", "3/2", "1/4"]),
        ("^A,,2 __b'' =c' z2 x", [2, 1, 1, 2, 1]),
        ("A>B c<d e>>f g3/2>a/2", ["3/2", "1/2", "1/2", "3/2", "7/4", "1/4", "9/4", "1/4"]),
        ("A> B {gf}c >d", ["3/2", "1/2", "3/2", "1/2"]),
        ("(3ABc d (2AB (3:2:2A2B c", ["2/3", "2/3", "2/3", 1, "3/2", "3/2", "4/3", "2/3", 1]),
        ("(5ABcde (9ABcdefgab", ["2/5"] * 5 + ["2/9"] * 9),
        ("[CEG]2 [C2E2]3/2 [A/c/]", [2, 3, "1/2"]),
        ('u"4"e .~A (Bc) !trill!d-d +p+e "Am"f `g', [1] * 9),
        ("Z", [8]),
    ],
)
def test_lengths_are_those_of_the_standard(notes, eighths):
    assert lengths(notes) == [Fraction(length) for length in eighths]


def test_a_tuplet_of_five_fills_three_in_compound_time():
    assert lengths("(5ABcde", "M:6/8\nL:1/8\nK:D\n") == [Fraction(3, 5)] * 5


@pytest.mark.parametrize(
    ("head", "asked", "unit"),
    [
        ("M:6/8\nK:D\n", "6/8", "1/8"),
        ("M:2/4\nK:D\n", "2/4", "1/16"),
        ("M:C|\nL:1/4\nK:D\n", "1", "1/4"),
        ("M: 9/8 % as Aird has it\nK:D\n", "9/8", "1/8"),
        ("M:2+3/8\nK:D\n", "5/8", "1/16"),
        ("M:none\nK:D\n", None, "1/8"),
        ("K:D\n", None, "1/8"),
    ],
)
def test_metre_and_unit_come_from_the_header_or_follow_from_the_metre(head, asked, unit):
    (bar,) = read(f"{head}A|").bars
    assert bar.asked == (asked and Fraction(asked))
    assert bar.length == Fraction(unit)


def test_bars_are_right_wrong_or_an_upbeat():
    tune = read(HEAD + "A2|ABcd efga|ABcd efg|[1 A4 B4 a|ABcd ef:|]")
    assert [bar.right for bar in tune.bars] == [None, True, None, False, None]
    tune = read(HEAD + "A8||A4||A4|A4:|:B4\nA4|\nA8\n|A4::A4|1A8:|2 A8|[3 A8|")
    assert [bar.right for bar in tune.bars] == [
        True,
        None,
        None,
        None,
        True,
        True,
        None,
        None,
        True,
        True,
        True,
    ]


def test_fields_in_the_body_change_the_metre_and_the_unit():
    tune = read(HEAD + "A8|[M:3/4]A6|A8|\nM:6/8\nL:1/16\nA12|[L:1/8] A6|\nP:B\nA4|")
    assert [bar.right for bar in tune.bars] == [True, True, False, True, True, None]


@pytest.mark.parametrize(
    "notes",
    ["A8|?A8", "A8|>A7 B|", "A6 (3AB|", "A7 B>|", 'A8 "Am|', "A8 {c|", "A8, ,|", "^|A8", "[A8|", "=20"],
)
def test_what_is_no_abc_is_a_fault_where_it_stands(notes):
    tune = read(f"{HEAD}A8|{notes}|A8|")
    assert not tune.sound
    assert [bar.right for bar in tune.bars].count(False) >= 1
    assert tune.bars[0].right
    assert read(f"{HEAD}A8|A8|").sound


def test_empty_bars_and_comments_and_line_ends_count_for_nothing():
    tune = read(HEAD + "%%MIDI program 1\n|:A4 \\\nA4|\n| A8 % twice |A|\n||")
    assert [bar.right for bar in tune.bars] == [True, True]
    assert tune.sound


def test_a_tune_without_notes_is_not_sound():
    assert not read(HEAD).sound
    assert not read("").sound


def test_a_header_ends_with_its_key():
    assert split(HEAD + "A|\nK:D\nB|") == (HEAD, "A|\nK:D\nB|")
    assert read(HEAD + "A|\nK:D\nB|").key == "Ador"
    assert split("A|B|") == ("A|B|", "")

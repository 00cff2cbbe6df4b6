import json

from llmkit.data.sources import chitchat
from llmkit.data.sources.chitchat import Chitchat


def chat(prompt, rating, *turns):
    messages = [
        [{"text": said, "sender": str(i % 2)} for said in turn.split("|")] for i, turn in enumerate(turns)
    ]
    ratings = {"witty": rating, "upbeat": str(rating), "interesting": rating} if rating else {}
    return {"prompt": prompt, "ratings": ratings, "messages": messages}


def records(publish, chats, **settings):
    publish(chitchat, {"chitchat_dataset/dataset.json": json.dumps(chats)})
    return list(Chitchat(Chitchat.Settings(**settings)).records())


def test_the_question_and_every_second_turn_are_the_users(publish):
    chats = {
        "a": chat("Why?", None, "Because.|Of rain", "Oh."),
        "short": chat("Why?", 9, "No."),
        "b": chat(None, 9, "Hi", "Ho"),
    }
    (record,) = records(publish, chats, turns=2)
    assert record["messages"] == [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Because. Of rain"},
        {"role": "user", "content": "Oh."},
    ]


def test_pairs_are_of_one_question_apart_in_rating_and_use_a_chat_once(publish):
    chats = {
        f"{prompt}{rating}": chat(prompt, rating, f"says {rating}", "Oh.")
        for prompt in "ab"
        for rating in (1, 2, 4, 6, 9)
    }
    chats["unrated"] = chat("a", None, "Hi", "Ho")
    pairs = records(publish, chats, kind="pairs", turns=2, gap=3)
    assert sorted(pair["id"] for pair in pairs) == ["a6-a2", "a9-a1", "b6-b2", "b9-b1"]
    best = next(pair for pair in pairs if pair["id"] == "a9-a1")
    assert best["prompt"] == [{"role": "user", "content": "a"}]
    assert (best["chosen"], best["rejected"], best["margin"]) == ("says 9\nOh.", "says 1\nOh.", 8)


def test_a_transcript_ends_with_the_last_turn_that_fits(publish):
    chats = {
        "a": chat("Why?", 9, "four", "more", "too long"),
        "b": chat("Why?", 1, "a very long beginning", "no"),
    }
    (pair,) = records(publish, chats, kind="pairs", turns=2, chars=10)
    assert pair["chosen"] == "four\nmore"
    assert pair["rejected"] == "a very lon"

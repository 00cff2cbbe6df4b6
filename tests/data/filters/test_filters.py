"""Each filter keeps ordinary prose and rejects, by its reason, what it is for."""

import json
import random
import re

import pytest

from llmkit import registry
from llmkit.data.collect import Collect, work
from llmkit.data.filters import chunks, near_duplicates
from llmkit.data.filters.chunks import sentences
from llmkit.data.filters.marks import MARKS
from llmkit.data.filters.words import words
from llmkit.errors import ConfigError, DataError

WORDS = [
    "the",
    "river",
    "and",
    "a",
    "house",
    "of",
    "stone",
    "were",
    "old",
    "when",
    "we",
    "came",
    "to",
    "live",
    "there",
    "with",
    "our",
    "children",
    "in",
    "that",
    "year",
    "people",
    "have",
    "told",
    "many",
    "stories",
    "about",
    "light",
    "water",
    "trees",
    "winter",
    "summer",
    "roads",
    "bread",
    "letters",
    "music",
    "hope",
]


def prose(seed=0, sentences=12):
    """English-looking text without repeated lines or sequences."""
    draw = random.Random(seed)
    made = (" ".join(draw.choices(WORDS, k=14)).capitalize() + "." for _ in range(sentences))
    return "the story of it and to be with that\n" + "\n".join(made)


def judge(name, text, **settings):
    cls = registry.find("filter", name)
    return cls(cls.Settings(**settings)).judge(text)


@pytest.mark.parametrize("name", ["gopher-quality", "gopher-repetition", "fineweb", "pii", "lines"])
def test_ordinary_prose_is_kept_unchanged(name):
    assert judge(name, prose()) == (prose(), None)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("gopher-quality", "Too short, the one and only to be.", "too_few_words"),
        ("gopher-quality", "the of " * 100, "word_length"),
        ("gopher-quality", prose() + " #" * 60, "symbols"),
        ("gopher-quality", "\n".join("- " + line for line in prose().splitlines()), "bullets"),
        ("gopher-quality", "\n".join(line + "..." for line in prose(sentences=8).splitlines()), "ellipses"),
        ("gopher-quality", prose() + " 12345 " * 100, "few_letters"),
        ("gopher-quality", "Wasser Brot Steine Bäume Winter " * 20, "few_common_words"),
        ("gopher-repetition", "\n\n".join(["One paragraph that comes again."] * 5), "repeated_paragraphs"),
        ("gopher-repetition", "\n".join(["One line that comes again."] * 5), "repeated_lines"),
        ("gopher-repetition", "buy now " * 50, "top_2_words"),
        ("gopher-repetition", " ".join(prose().split() * 2), "repeated_5_words"),
        ("fineweb", "\n".join(line.rstrip(".") for line in prose().splitlines()), "lines_without_stop"),
        ("fineweb", "\n".join(f"Short line {i}." for i in range(20)), "short_lines"),
        ("c4", "One. Two. Three. Four of them.", "too_few_sentences"),
        ("c4", prose() + "\nLorem ipsum dolor sit amet.", "lorem_ipsum"),
        ("c4", prose() + "\nif (x) { return y; } and so on.", "curly_bracket"),
        ("fineweb", prose() + "\n" + prose().splitlines()[3], "repeated_lines"),
    ],
)
def test_each_rule_has_a_text_that_breaks_it_alone(name, text, reason):
    assert judge(name, text)[1] == reason


def test_c4_takes_lines_out_and_counts_them():
    bad = [
        "No stop",
        "It ends...",
        "Two words.",
        "Turn Javascript on now.",
        "See our privacy policy here.",
        "x" * 1001,
    ]
    cls = registry.find("filter", "c4")
    filter = cls(cls.Settings())
    body = prose().splitlines()[1:]
    text, reason = filter.judge("\n".join([*bad, "  Known since long ago.[1][edit]  ", *body]))
    assert reason is None
    assert text == "\n".join(["Known since long ago.", *body])
    assert filter.counts == {"no_stop": 2, "few_words": 1, "javascript": 1, "policy": 1, "long_word": 1}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("I don't know, he's 5km away.", "I do n't know , he 's 5 km away ."),
        ("Dr. Smith (Ph.D.) e.g. U.S.A.!", "Dr. Smith ( Ph.D. ) e.g. U.S.A. !"),
        ("well-known a/b 10-20 1,000.5", "well - known a / b 10 - 20 1,000.5"),
        ("see https://example.org/a-b?c=d.", "see https://example.org/a-b?c=d ."),
        ("f(x): y=2; 'quoted' \u201ctext\u201d...", "f(x ): y=2 ; ' quoted ' \u201c text \u201d ..."),
        ("they're can't Its :-) $5 50% end.Start", "they 're ca n't Its :-) $ 5 50 % end . Start"),
    ],
)
def test_words_are_cut_as_spacy_does(text, found):
    """What spaCy 3.8's blank English tokenizer gives for these."""
    assert words(text) == found.split()


def test_what_is_counted_by_chunks_is_what_the_words_are(monkeypatch):
    """Whole, in slices, and with a table that is begun anew in between."""
    text = "(The river) of 5km, :-) can't and U.S.A.! -- \u2026 ?! E. \u4e2d\u6587\u3002 C++ a_b " + prose()
    found = words(text)
    marks = [word for word in found if not word.strip(MARKS)]
    wanted = chunks.Counts(
        words=len(found),
        chars=sum(map(len, found)),
        marks=len(marks),
        mark_chars=sum(map(len, marks)),
        letters=sum(any(map(str.isalpha, word)) for word in found),
        stops=sum(bit for word, bit in chunks.STOP_WORDS.items() if word in found),
    )
    for at_once, known in ((1 << 16, 1 << 18), (7, 1 << 18), (7, 10)):
        monkeypatch.setattr(chunks, "AT_ONCE", at_once)
        monkeypatch.setattr(chunks, "KNOWN", known)
        monkeypatch.setattr(chunks, "_last", None)
        got = chunks.counted(text)
        assert got.counts == wanted
        assert got.hashes.tolist() == list(map(hash, found))
        assert got.lengths.tolist() == list(map(len, found))
    assert chunks.counted("").counts == chunks.Counts(0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("text", "num"), [("One.", 1), ("One. Two? Three!", 3), ('He said "No." And left', 2), ("No stop", 1)]
)
def test_sentences_are_counted(text, num):
    assert sentences(text) == num


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("Write to jane.doe+x@mail.example.org now", "Write to <mail> now"),
        ("from 8.8.4.4, not 192.168.0.1 or 999.1.1.1", "from <ip>, not 192.168.0.1 or 999.1.1.1"),
        ("card 4111 1111 1111 1111.", "card <card>."),
        ("order 4111 1111 1111 1112.", "order 4111 1111 1111 1112."),
        ("to DE89 3704 0044 0532 0130 00 please", "to <iban> please"),
        ("to DE88 3704 0044 0532 0130 00 please", "to DE88 3704 0044 0532 0130 00 please"),
        ("call +49 30 1234567 or (555) 123-4567", "call <phone> or <phone>"),
        ("AKIAABCDEFGHIJKLMNOP is mine", "<key> is mine"),
        ("In 1984 there were 1,234,567 people; 3.14159 is pi.", None),
        ("version 6.1.192-2 of 2026-11-27", None),
    ],
)
def test_personal_data_are_replaced_and_like_looking_numbers_are_not(text, hidden):
    assert judge("pii", text) == (hidden or text, None)


def test_personal_data_are_counted_and_may_drop_the_text():
    cls = registry.find("filter", "pii")
    filter = cls(cls.Settings(action="drop"))
    assert filter.judge("a@b.org and c@d.org")[1] == "personal_data"
    assert filter.judge("Nothing here.")[1] is None
    assert filter.counts == {"mail": 2}


def test_hostile_text_takes_no_longer_than_its_length():
    for text in ("a" * 200_000, "1 " * 100_000, "a.b" * 70_000 + "@", "1.1." * 50_000, "-" * 200_000):
        for name in ("pii", "gopher-quality", "gopher-repetition", "fineweb"):
            judge(name, text)


def test_near_duplicates_keep_the_first_and_spare_what_is_different():
    cls = registry.find("filter", "near-duplicates")
    filter = cls(cls.Settings())
    changed = prose(1, 40).replace("Water", "Fire", 1) + " One more word."
    verdicts = [filter.judge(text)[1] for text in (prose(1, 40), prose(2, 40), changed, prose(3, 40))]
    assert verdicts == [None, None, "near_duplicate", None]


@pytest.mark.parametrize("num", [0, 1, 30, near_duplicates.USUAL])
def test_words_are_hashed_by_their_letters_and_digits_alone(num):
    draw = random.Random(num)
    text = "".join(draw.choices("aB1_.,-' \n\u00a0\u0301\u00df\u4e00\u0130\u03a3\u00b2\U0001f600", k=num))
    kept = ["".join(re.findall(r"\w+", chunk.lower())) for chunk in text.split()]
    kept = [word for word in kept if word]
    hashes = near_duplicates._words(text).tolist()
    assert len(hashes) == len(kept)
    assert len(set(hashes)) == len(set(kept)) == len(set(zip(hashes, kept)))


def test_the_signature_estimates_the_jaccard_similarity():
    cls = registry.find("filter", "near-duplicates")
    filter = cls(cls.Settings(bands=64, rows=16, words=1))
    one, two = " ".join(f"w{i}" for i in range(300)), " ".join(f"w{i}" for i in range(100, 400))
    same = (filter.signature(one) == filter.signature(two)).mean()
    assert abs(same - 0.5) < 0.06  # 200 of 400; four standard errors of 1,024 draws


def test_lines_of_many_texts_are_taken_out():
    cls = registry.find("filter", "lines")
    filter = cls(cls.Settings(max_times=2))
    footer = "All rights reserved by the publisher."
    left = [filter.judge(f"Text number {i} says its own thing.\n{footer}")[0] for i in range(4)]
    assert [footer in text for text in left] == [True, True, False, False]
    assert filter.judge(footer)[1] == "boilerplate"
    assert filter.counts == {"line": 3}


def test_texts_that_hold_the_evaluation_are_found_whatever_their_case_and_marks(tmp_path):
    question = "Which of the eight planets of our sun has the longest day, and how long is that day?"
    (tmp_path / "eval.jsonl").write_text(json.dumps({"prompt": [{"content": question}], "answer": "Venus"}))
    against = [str(tmp_path / "eval.jsonl")]
    shouted = question.upper().replace(",", " --")
    assert judge("decontaminate", f"{prose()} {shouted} {prose(1)}", against=against)[1] == "contaminated"
    assert judge("decontaminate", prose(), against=against)[1] is None
    with pytest.raises(DataError, match="there is no such file"):
        judge("decontaminate", "x", against=[str(tmp_path / "none.jsonl")])


def test_a_phrase_of_many_evaluation_texts_says_nothing(tmp_path):
    form = "please read the passage below and answer the question with yes or no only"
    lines = (json.dumps({"q": f"{form}: {prose(i, 1)}"}) for i in range(20))
    (tmp_path / "eval.jsonl").write_text("\n".join(lines))
    against = [str(tmp_path / "eval.jsonl")]
    assert judge("decontaminate", form, against=against)[1] is None
    assert judge("decontaminate", form, against=against, max_texts=20)[1] == "contaminated"


def collect(tmp_path, texts, out="out", **settings):
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / out).mkdir()
    return work(Collect(source=str(tmp_path / "in.jsonl"), **settings), tmp_path / out)


def test_steps_are_accounted_for_and_what_they_reject_is_kept_on_request(tmp_path):
    texts = [prose(i) for i in range(8)] + ["Short.", "Mail a@b.org. " + prose(9), prose(0)]
    steps = [{"name": "gopher-quality"}, {"name": "pii"}]
    result = collect(tmp_path, texts, steps=steps, keep_rejected=True)
    (facts,) = result["by_source"].values()
    assert facts["steps"]["dedup"] == {"in": 11, "out": 10}
    assert facts["steps"]["gopher-quality"] == {"in": 10, "out": 9}
    assert facts["steps"]["pii"] == {"in": 9, "out": 9}
    assert facts["in"] == facts["kept"] + sum(facts["rejected"].values())
    assert result["found"] == {"pii": {"mail": 1}}
    kept = [json.loads(x) for x in (tmp_path / "out/rejected/too_few_words.jsonl").read_text().splitlines()]
    assert [record["text"] for record in kept] == ["Short."]


def test_filters_are_for_documents(tmp_path):
    with pytest.raises(ConfigError, match="steps: filters judge documents, not pairs"):
        collect(tmp_path, ["x"], kind="pairs", steps=[{"name": "pii"}])

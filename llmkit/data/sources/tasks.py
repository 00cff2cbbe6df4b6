"""Short questions with one exact answer, made up here, so that a reply can be checked by comparing strings.

A kind draws (question, answer, a wrong answer of the same kind) from a generator keyed by (seed, kind); the
wording is one of several paraphrases. A split by the prompt's hash holds out *prompts*, not the facts behind
them: "What is the opposite of hot?" may be held out while "Name the opposite of hot." is trained on; lists
and many numbers are new. A wrong answer is right for another question of the kind or, for a share of the
pairs, of another kind; on the whole it is as often longer as shorter than the right one.
"""

import random
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, field_validator

from llmkit.config import Section
from llmkit.registry import register

OPPOSITES = (
    "hot cold, big small, tall short, fast slow, up down, left right, in out, open closed, full empty, "
    "high low, near far, early late, old new, rich poor, strong weak, happy sad, light dark, hard soft, "
    "good bad, right wrong, true false, clean dirty, wide narrow, first last, buy sell, win lose, love "
    "hate, war peace, friend enemy, north south, east west, public private, foreign domestic, past "
    "future, success failure, import export"
)
PAST_TENSES = (
    "go went, see saw, take took, give gave, make made, come came, know knew, think thought, find "
    "found, tell told, say said, leave left, feel felt, bring brought, begin began, keep kept, hold "
    "held, write wrote, stand stood, hear heard, meet met, run ran, pay paid, speak spoke, lead led, "
    "grow grew, lose lost, send sent, build built, draw drew, break broke, rise rose, buy bought, "
    "choose chose, fight fought, teach taught"
)
CAPITALS = (
    "Alabama Montgomery, Alaska Juneau, Arizona Phoenix, Colorado Denver, Georgia Atlanta, Hawaii "
    "Honolulu, Illinois Springfield, Massachusetts Boston, Ohio Columbus, Tennessee Nashville, Texas "
    "Austin, Virginia Richmond, France Paris, England London, Spain Madrid, Italy Rome, Germany Berlin, "
    "Russia Moscow, China Beijing, Japan Tokyo, Canada Ottawa, Egypt Cairo, Cuba Havana, Greece Athens, "
    "Poland Warsaw, Austria Vienna, Korea Seoul, Iraq Baghdad, Iran Tehran, Israel Jerusalem, Vietnam "
    "Hanoi, Ireland Dublin"
)
CATEGORIES = (
    "dog animal, cat animal, horse animal, cow animal, sheep animal, lion animal, apple fruit, banana "
    "fruit, orange fruit, pear fruit, grape fruit, cherry fruit, red color, blue color, green color, "
    "yellow color, black color, white color, iron metal, gold metal, silver metal, copper metal, tin "
    "metal, zinc metal, shirt clothing, coat clothing, hat clothing, shoe clothing, dress clothing, "
    "glove clothing, hammer tool, saw tool, knife tool, drill tool, shovel tool, axe tool, car vehicle, "
    "truck vehicle, ship vehicle, train vehicle, plane vehicle, bus vehicle"
)
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
MONTHS = "January February March April May June July August September October November December"
LETTERS = "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z"
WORDS = (
    "time year people work law state war peace power right money trade land man force duty world house "
    "public nation service army treaty labor farm city bank gold water school family child health price "
    "debt tax budget island river border energy court justice citizen freedom union congress history "
    "policy office report question"
)


def _table(text: str) -> list[tuple[str, str]]:
    """`a b, c-d e` -> [("a", "b"), ("c d", "e")]."""
    rows = (item.replace("-", "\0").split() for item in text.split(", "))
    return [(first.replace("\0", " "), second.replace("\0", " ")) for first, second in rows]


def _fact(table: list[tuple[str, str]], *wordings: str):
    """A kind that asks for the second column of `table`; wrong answers come from the same column."""
    answers = sorted({answer for _, answer in table})

    def draw(rng):
        item, answer = rng.choice(table)
        wrong = rng.choice([other for other in answers if other != answer])
        return rng.choice(wordings).format(item), answer, wrong

    return draw


def _next(items: str, *wordings: str):
    """A kind that asks for the following item of a cyclic list."""
    first, *rest = items.split()
    return _fact(list(zip([first, *rest], [*rest, first])), *wordings)


def _number(rng, answer: int, *near: int) -> str:
    """A wrong number as long as the right one where there is one, near it or one of `near`."""
    others = [
        n
        for n in (*near, answer - 1, answer + 1, answer - 2, answer + 2, answer + 10)
        if n >= 0 and n != answer
    ]
    same = [n for n in others if len(str(n)) == len(str(answer))]
    return str(rng.choice(same or others))


def _following(rng):
    n, step = rng.randrange(1, 100), rng.choice((1, 1, -1))
    wording = (
        ("What number comes after {}?", "Count on: {},", "Add one to {}.", "The number after {} is")
        if step > 0
        else ("What number comes before {}?", "Take one from {}.", "The number before {} is")
    )
    return rng.choice(wording).format(n), str(n + step), _number(rng, n + step, n)


def _sum(rng):
    a, b = rng.randrange(10), rng.randrange(10)
    wording = rng.choice(("What is {} plus {}?", "{} + {} =", "Add {} and {}.", "{} and {} make"))
    return wording.format(a, b), str(a + b), _number(rng, a + b)


def _larger(rng):
    a, b = rng.sample(range(10, 100), 2)
    wording = rng.choice(
        ("Which number is larger, {} or {}?", "The larger of {} and {}:", "Pick the larger: {} or {}")
    )
    return wording.format(a, b), str(max(a, b)), str(min(a, b))


def _smaller(rng):
    a, b = rng.sample(range(10, 100), 2)
    wording = rng.choice(
        ("Which number is smaller, {} or {}?", "The smaller of {} and {}:", "Pick the smaller: {} or {}")
    )
    return wording.format(a, b), str(min(a, b)), str(max(a, b))


def _even_odd(rng):
    n = rng.randrange(10, 1000)
    wording = rng.choice(("Is {} even or odd?", "Even or odd: {}", "Say if {} is odd or even."))
    return wording.format(n), *(("odd", "even") if n % 2 else ("even", "odd"))


def _earlier_letter(rng):
    a, b = rng.sample(LETTERS.split(), 2)
    wording = rng.choice(("Which letter comes first, {} or {}?", "First in the alphabet, {} or {}:"))
    return wording.format(a, b), min(a, b), max(a, b)


def _words(rng, *wordings: str, place: int):
    """Words, one a line, so that a word has the same tokens in the list and in the reply."""
    words = rng.sample(WORDS.split(), rng.randrange(2, 5))
    answer = words[place]
    wrong = rng.choice([word for word in words if word != answer])
    return rng.choice(wordings) + "\n" + "\n".join(words), answer, wrong


def _first(rng):
    return _words(rng, "Give the first word.", "Which word comes first?", "First word:", place=0)


def _second(rng):
    return _words(rng, "Give the second word.", "Which word comes second?", "Second word:", place=1)


def _last(rng):
    return _words(rng, "Give the last word.", "Which word comes last?", "Last word:", place=-1)


def _repeat(rng):
    word, other = rng.sample(WORDS.split(), 2)
    again = rng.choice(
        ("Repeat this word.", "Say this word again.", "Copy the word:", "Echo:", "Write this word:")
    )
    return f"{again}\n{word}", word, other


def _count(rng):
    word, n = rng.choice(WORDS.split()), rng.randrange(1, 7)
    wording = rng.choice(("How many words are here?", "Count the words.", "Number of words:"))
    return wording + "\n" + " ".join([word] * n), str(n), _number(rng, n)


KINDS = {
    "opposite": _fact(
        _table(OPPOSITES),
        "What is the opposite of {}?", "Name the opposite of {}.", "Opposite of {}:",
        "The opposite of {} is", "Give a word that means the reverse of {}.",
        "If it is not {}, what is it?", "Reverse of {}:", "Antonym of {}:",
    ),
    "past_tense": _fact(
        _table(PAST_TENSES),
        "What is the past tense of {}?", "Past tense of {}:", "Today I {}, yesterday I",
        "The past of {} is", "Give the past tense of {}.", "Put into the past: {}",
        "How do you say {} in the past?", "Yesterday of {}:",
    ),
    "capital": _fact(
        _table(CAPITALS),
        "What is the capital of {}?", "Name the capital of {}.", "Capital of {}:", "The capital of {} is",
        "Which city is the capital of {}?", "{} has which capital?", "Where is the government of {}?",
        "{} - capital:",
    ),
    "category": _fact(
        _table(CATEGORIES),
        "What kind of thing is {}?", "Which group does {} belong to?", "Category of {}:",
        "The kind of {} is", "Sort {} into a group.", "What is {}?", "Class of {}:", "{} is a kind of",
    ),
    "next_day": _next(
        DAYS,
        "Which day comes after {}?", "Day after {}:", "If today is {}, what is tomorrow?", "After {} comes",
        "What day follows {}?", "Name the day after {}.", "{} is over. What day is it?",
        "The day following {} is",
    ),
    "next_month": _next(
        MONTHS,
        "Which month comes after {}?", "Month after {}:", "What month follows {}?", "After {} we have",
        "Name the month after {}.", "{} ends. Which month begins?", "The month following {} is",
        "Next month of {}:",
    ),
    "next_letter": _next(
        LETTERS,
        "Which letter comes after {}?", "Letter after {}:", "What letter follows {}?",
        "After {} in the alphabet:", "Name the letter after {}.", "The letter following {} is",
        "Next letter of {}:", "{} and then which letter?",
    ),
    "following_number": _following,
    "sum": _sum,
    "larger": _larger,
    "first_word": _first,
    "last_word": _last,
    "repeat": _repeat,
    "count": _count,
    "smaller": _smaller,
    "even_odd": _even_odd,
    "earlier_letter": _earlier_letter,
    "second_word": _second,
}  # fmt: skip
"""name -> draw(rng) -> (question, right answer, wrong answer)."""


@register("source", "tasks")
class Tasks:
    """Verifiable tasks as conversations with an `answer`, or as pairs of a right and a wrong answer."""

    class Settings(Section):
        name: Literal["tasks"] = "tasks"
        kind: Literal["conversations", "pairs"] = Field("conversations", description="what the records are")
        without: list[str] = Field([], description=f"kinds of task to leave out of {', '.join(KINDS)}")
        prompts: int = Field(
            500, gt=0, description="distinct prompts of each kind of task, if it has so many"
        )
        off_topic: float = Field(
            0.5, ge=0, le=1, description="pairs: share of wrong answers that answer another kind of question"
        )
        seed: int = Field(1, ge=0, description="seeds the draws")

        @field_validator("without")
        @classmethod
        def _known(cls, without):
            if unknown := set(without) - set(KINDS):
                raise ValueError(f"there is no kind of task called {min(unknown)}; known: {', '.join(KINDS)}")
            return without

    licence = "CC0-1.0"
    origin = "generated by llmkit/data/sources/tasks.py"
    size = "about 6,500 prompts"
    counts = {"conversations": 6687, "pairs": 6687}

    def __init__(self, settings: Settings):
        self.settings = settings
        self.kind = settings.kind

    def records(self) -> Iterator[dict[str, Any]]:
        asked = {kind: draw for kind, draw in KINDS.items() if kind not in self.settings.without}
        tasks = [(kind, *task) for kind, draw in asked.items() for task in self._distinct(kind, draw)]
        rng = random.Random(f"{self.settings.seed}/off topic")
        for number, (kind, question, answer, wrong) in enumerate(tasks):
            record = {"id": f"{kind}-{number}", "source": f"tasks/{kind}"}
            prompt = [{"role": "user", "content": question}]
            if self.kind == "conversations":
                reply = {"role": "assistant", "content": answer}
                yield {**record, "messages": [*prompt, reply], "answer": answer}
                continue
            if rng.random() < self.settings.off_topic:
                drawn = rng.choices(tasks, k=16)
                wrong = next((task[2] for task in drawn if task[0] != kind and task[2] != answer), wrong)
            yield {**record, "prompt": prompt, "chosen": answer, "rejected": wrong}

    def _distinct(self, kind: str, draw) -> Iterator[tuple[str, str, str]]:
        """At most `prompts` draws with different questions, out of four times as many."""
        rng = random.Random(f"{self.settings.seed}/{kind}")
        seen = set()
        for _ in range(4 * self.settings.prompts):
            question, answer, wrong = draw(rng)
            if question not in seen and len(seen) < self.settings.prompts:
                seen.add(question)
                yield question, answer, wrong

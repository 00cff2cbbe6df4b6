from llmkit.data.sources.lists import Lists


def records(**settings):
    return list(Lists(Lists.Settings(prompts=200, **settings)).records())


def replies(records) -> list[str]:
    return [record["messages"][1]["content"] for record in records]


def test_a_list_is_turned_round_or_sorted():
    for record in records(tasks=["reverse", "sort"], of="letters"):
        words = record["messages"][0]["content"].split("\n")[1:]
        expected = words[::-1] if record["source"] == "lists/reverse" else sorted(words)
        assert record["answer"].split("\n") == expected
        assert record["messages"][1]["content"] == record["answer"]


def test_slips_spoil_that_share_of_the_replies_and_neither_prompts_nor_answers():
    right, careless = records(), records(slips=0.6)
    for plain, spoilt, reply in zip(right, careless, replies(careless), strict=True):
        assert spoilt["answer"] == plain["answer"]
        assert spoilt["messages"][0] == plain["messages"][0]
        *same, a, b = plain["answer"].split("\n")
        assert reply in (plain["answer"], "\n".join([*same, b, a]))
    wrong = sum(r["answer"] != said for r, said in zip(careless, replies(careless), strict=True))
    assert 100 <= wrong <= 140

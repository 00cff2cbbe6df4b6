"""Collecting: in = kept + rejected, splits by hash of the prompt, and the same bytes every time."""

import json
from collections import Counter

import pytest

from llmkit.data import book
from llmkit.data.book import Book
from llmkit.data.collect import Collect, work
from llmkit.errors import ConfigError, DataError


def records(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]


def run(tmp_path, out="out", **settings):
    (tmp_path / out).mkdir()
    return work(Collect(**settings), tmp_path / out)


def write_documents(path, n):
    path.write_text("".join(json.dumps({"text": f"This is text number {i}."}) + "\n" for i in range(n)))
    return str(path)


def test_two_runs_write_the_same_bytes(tmp_path):
    source = write_documents(tmp_path / "a.jsonl", 300)
    first, second = (run(tmp_path, out, source=source, heldout_frac=0.1) for out in ("one", "two"))
    assert Collect(source=["a/", "b"]) == Collect(source=["a", "b/"])
    assert first == second
    for name in ("train.jsonl", "heldout.jsonl", "heldout.txt"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_every_record_carries_its_own_licence_or_its_sources(tmp_path):
    rows = [{"id": i, "text": f"This is text number {i}."} for i in range(60)]
    for row, own in zip(rows, ["CC0-1.0"] * 20 + [None, 7, " ", "MIT  or\nsuch", "x" * 500], strict=False):
        row["license" if row["id"] % 2 else "licence"] = own
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = write_documents(tmp_path / "b.jsonl", 90)  # 60 of them are duplicates
    sources = [{"path": str(tmp_path / "a.jsonl"), "licence": "CC-BY-4.0"}, plain]
    result = run(tmp_path, source=sources, heldout_frac=0.1, keep_rejected=True)
    kept = records(tmp_path / "out", "train") + records(tmp_path / "out", "heldout")
    assert list(kept[0])[:4] == ["id", "source", "licence", "text"]
    assert not any("license" in record for record in kept)
    wanted = {"CC-BY-4.0": 38, "CC0-1.0": 20, "MIT or such": 1, "x" * 100: 1}
    assert result["by_source"][str(tmp_path / "a.jsonl")]["licences"] == wanted
    assert Counter(r["licence"] for r in kept) == Counter(wanted) + Counter({"not stated": 30})
    assert "| CC0-1.0 | 20 |" in (tmp_path / "out" / "card.md").read_text()
    assert records(tmp_path / "out/rejected", "duplicate")[0]["licence"] == "not stated"


def test_licences_beyond_count_are_others(tmp_path, monkeypatch):
    monkeypatch.setattr(book, "LICENCES", 5)
    rows = ({"text": f"This is text number {i}.", "licence": f"L{i}"} for i in range(40))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    counted = run(tmp_path, source=str(tmp_path / "a.jsonl"), heldout_frac=0.1)["by_source"].popitem()[1]
    assert counted["licences"]["others"] == 35
    assert sum(counted["licences"].values()) == 40


def test_a_document_stays_on_its_side_whatever_else_is_collected(tmp_path):
    run(tmp_path, "few", source=write_documents(tmp_path / "a.jsonl", 200), heldout_frac=0.1)
    run(tmp_path, "many", source=write_documents(tmp_path / "b.jsonl", 400), heldout_frac=0.1)
    few = {r["text"] for r in records(tmp_path / "few", "heldout")}
    many = {r["text"] for r in records(tmp_path / "many", "heldout")}
    assert few == {text for text in many if int(text.split()[-1][:-1]) < 200}
    assert 10 < len(few) < 35


def test_duplicates_are_dropped_even_with_other_spaces_and_case(tmp_path):
    texts = ["One  and two.", "one and\ntwo.", "Three.", "Four.", "THREE."]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    counts = run(tmp_path, source=str(tmp_path / "a.jsonl"))["counts"]
    assert counts["rejected"] == {"duplicate": 2}
    assert run(tmp_path, "all", source=str(tmp_path / "a.jsonl"), dedup=False)["counts"]["kept"] == 5


def test_with_few_documents_one_is_held_out_and_one_remains(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text(f"The whole of file {i}.")
    for out, frac in (("low", 1e-9), ("high", 1 - 1e-9)):
        counts = run(tmp_path, out, source=[str(tmp_path / f"{i}.txt") for i in range(3)], heldout_frac=frac)[
            "counts"
        ]
        assert min(counts["train"], counts["heldout"]) == 1
        assert len(records(tmp_path / out, "train")) == counts["train"]
        assert len(records(tmp_path / out, "heldout")) == counts["heldout"]


def test_one_document_is_too_few(tmp_path):
    (tmp_path / "a.txt").write_text("Alone.")
    with pytest.raises(DataError, match="one record is too few"):
        run(tmp_path, source=str(tmp_path / "a.txt"))


def test_the_heldout_text_is_the_documents_with_a_blank_line_between(tmp_path):
    run(tmp_path, source=write_documents(tmp_path / "a.jsonl", 300), heldout_frac=0.1)
    texts = [r["text"] for r in records(tmp_path / "out", "heldout")]
    assert (tmp_path / "out" / "heldout.txt").read_text("utf-8") == "\n\n".join(texts) + "\n"


def test_steps_add_up_for_every_source(tmp_path):
    lines = ['{"text": "a"}', '{"text": "A"}', '{"text": ""}', "broken", '{"text": "b"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    result = run(tmp_path, source=[str(tmp_path / "a.jsonl"), write_documents(tmp_path / "b.jsonl", 10)])
    facts = result["by_source"][str(tmp_path / "a.jsonl")]
    assert facts["steps"] == {
        "read": {"in": 5, "out": 4},
        "clean": {"in": 4, "out": 3},
        "dedup": {"in": 3, "out": 2},
    }
    assert facts["in"] == facts["kept"] + sum(facts["rejected"].values())
    assert result["counts"]["in"] == 15


def test_a_record_that_nobody_counted_is_noticed(tmp_path, monkeypatch):
    """The books are checked, not trusted: a loop that forgets to count a kept record does not pass."""
    monkeypatch.setattr(Book, "count", lambda self, split, size, licence: None)
    source = write_documents(tmp_path / "a.jsonl", 10)
    with pytest.raises((AssertionError, DataError)):
        run(tmp_path, source=source)


def chat(question, reply, **more):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return {"messages": messages, **more}


def test_no_prompt_stands_on_both_sides(tmp_path):
    rows = [chat(f"Question {i % 50}?", f"Answer {i}.") for i in range(500)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(tmp_path, source=str(tmp_path / "a.jsonl"), kind="conversations", heldout_frac=0.2)
    prompts = [
        {r["messages"][0]["content"] for r in records(tmp_path / "out", name)}
        for name in ("train", "heldout")
    ]
    assert not prompts[0] & prompts[1]
    assert min(map(len, prompts)) >= 3


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": "hello"}, "messages_are_not_a_list"),
        ({"messages": []}, "empty_conversation"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "unknown_role"),
        ({"messages": [{"role": "user", "content": 5}]}, "content_is_not_text"),
        ({"messages": [{"role": "user", "content": "Anybody?"}]}, "no_message_of_assistant"),
        (chat("q", "  "), "empty"),
        (chat("q", "a", answer=7), "answer_is_not_text"),
    ],
)
def test_a_conversation_that_is_none_is_rejected_by_reason(tmp_path, row, reason):
    rows = [row, *(chat(f"Question {i}?", f"Answer {i}.") for i in range(10))]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    result = run(tmp_path, source=str(tmp_path / "a.jsonl"), kind="conversations")
    assert result["counts"]["rejected"] == {reason: 1}


def test_a_last_question_without_an_answer_is_cut_off(tmp_path):
    rows = [chat(f"Question {i}?", f"Answer {i}.") for i in range(10)]
    rows[0]["messages"].append({"role": "user", "content": "And then?"})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    run(tmp_path, source=str(tmp_path / "a.jsonl"), kind="conversations")
    kept = records(tmp_path / "out", "train") + records(tmp_path / "out", "heldout")
    assert all(len(r["messages"]) == 2 for r in kept)


def test_pairs_with_equal_sides_are_rejected(tmp_path):
    prompt = [{"role": "user", "content": "Which?"}]
    rows = [{"prompt": prompt, "chosen": f"a {i}", "rejected": "b", "margin": 1.5} for i in range(9)]
    rows.append({"prompt": prompt, "chosen": "same", "rejected": "same"})
    rows.append({"prompt": [{"role": "user", "content": "Another?"}], "chosen": "x", "rejected": "y"})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    result = run(tmp_path, source=str(tmp_path / "a.jsonl"), kind="pairs")
    assert result["counts"]["rejected"] == {"equal_sides": 1}


def test_a_source_that_is_nowhere_names_the_catalogue(tmp_path):
    with pytest.raises(ConfigError, match=r"neither a file or folder here nor in the catalogue .*sotu"):
        run(tmp_path, source="no_such_thing")


def test_a_source_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds documents, not pairs"):
        run(tmp_path, source="sotu", kind="pairs")


def test_a_source_named_twice_has_two_accounts(tmp_path):
    path = write_documents(tmp_path / "a.jsonl", 10)
    result = run(tmp_path, source=[path, {"path": path, "licence": "CC0-1.0"}], dedup=False)
    assert [facts["kept"] for facts in result["by_source"].values()] == [10, 10]
    assert list(result["by_source"]) == [path, f"{path}#2"]


def test_a_cap_on_bytes_ends_a_source_and_not_the_others(tmp_path):
    sources = [write_documents(tmp_path / "a.jsonl", 300), write_documents(tmp_path / "b.jsonl", 310)]
    result = run(tmp_path, source=sources, max_bytes=1000, dedup=False)
    assert all(1000 <= facts["bytes"] < 1050 for facts in result["by_source"].values())

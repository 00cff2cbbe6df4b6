"""Other people's formats: each example becomes the record that it means, and what is odd is said."""

import json
import subprocess
import sys

import pytest

from llmkit.data import formats, readers, shapes
from llmkit.data.collect import Collect, work
from llmkit.errors import ConfigError, DataError


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


CHAT = [user("Hi"), assistant("Hello")]
ROWS = {
    "conversational": [({"messages": CHAT, "answer": "Hello"}, {"messages": CHAT, "answer": "Hello"})],
    "prompt_completion": [
        ({"prompt": "Hi", "completion": "Hello"}, {"messages": CHAT}),
        ({"prompt": [user("Hi")], "completion": [assistant("Hello")]}, {"messages": CHAT}),
    ],
    "alpaca": [
        ({"instruction": "Hi", "input": "", "output": "Hello"}, {"messages": CHAT}),
        (
            {"instruction": "Add", "input": "1 2", "output": "3", "system": "Sum.", "history": [["a", "b"]]},
            {
                "messages": [
                    {"role": "system", "content": "Sum."},
                    *(user("a"), assistant("b"), user("Add\n\n1 2"), assistant("3")),
                ]
            },
        ),
    ],
    "sharegpt": [
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
            {"messages": CHAT},
        )
    ],
    "explicit": [
        (
            {"prompt": "Hi", "chosen": "Hello", "rejected": "No", "margin": 2},
            {"prompt": [user("Hi")], "chosen": "Hello", "rejected": "No", "margin": 2},
        ),
        (
            {"prompt": [user("Hi")], "chosen": CHAT, "rejected": [assistant("No")]},
            {"prompt": [user("Hi")], "chosen": "Hello", "rejected": "No"},
        ),
    ],
    "implicit": [
        (
            {"chosen": CHAT, "rejected": [user("Hi"), assistant("No")]},
            {"prompt": [user("Hi")], "chosen": "Hello", "rejected": "No"},
        )
    ],
    "unpaired": [
        (
            {"prompt": "Hi", "completion": "Hello", "label": False},
            {"prompt": [user("Hi")], "reply": "Hello", "desirable": False},
        )
    ],
    "rated": [
        (
            {"prompt": [user("Hi")], "reply": "Hello", "desirable": True},
            {"prompt": [user("Hi")], "reply": "Hello", "desirable": True},
        )
    ],
    "prompt_only": [({"prompt": "Hi", "answer": "Hello"}, {"prompt": [user("Hi")], "answer": "Hello"})],
}
EXAMPLES = [(name, row, record) for name, rows in ROWS.items() for row, record in rows]


@pytest.mark.parametrize(("name", "row", "record"), EXAMPLES)
def test_a_row_is_recognised_and_becomes_a_good_record(name, row, record):
    kind = formats.FORMATS[name].kind
    assert formats.recognised(row, kind) == name
    for asked in ("auto", name):
        (found,) = formats.converted({"id": "1", **row}, kind, asked)
        assert found == {"id": "1", **record}
        assert shapes.tidy(kind, found)[1] is None


def test_every_format_has_an_example():
    assert formats.FORMATS.keys() == ROWS.keys() | {"ratings"}


def test_ratings_become_pairs_of_the_best_and_every_worse_reply():
    row = {"id": "q", "prompt": "Hi", "replies": ["a", "b", "c", "d"], "ratings": [2, 5, 5, 4.5]}
    found = list(formats.converted(row, "pairs"))
    assert [(r["id"], r["chosen"], r["rejected"], r["margin"]) for r in found] == [
        ("q#0", "b", "d", 0.5),
        ("q#1", "b", "a", 3.0),
    ]


@pytest.mark.parametrize(
    ("kind", "row", "reason"),
    [
        ("conversations", {"messages": []}, "empty_conversation"),
        ("conversations", {"messages": [{"role": "tool", "content": "x"}]}, "unknown_role"),
        ("conversations", {"messages": [{"role": "user", "content": 1}]}, "content_is_not_text"),
        ("conversations", {"messages": "Hi"}, "messages_are_not_a_list"),
        ("conversations", {"conversations": [{"from": "observation", "value": "x"}]}, "unknown_role"),
        ("conversations", {"instruction": "a", "output": "b", "history": [["a"]]}, "history_is_not_pairs"),
        ("pairs", {"chosen": CHAT, "rejected": [user("Ho"), assistant("No")]}, "prompts_differ"),
        ("pairs", {"prompt": "Ho", "chosen": CHAT, "rejected": CHAT}, "prompts_differ"),
        ("pairs", {"chosen": CHAT[:1], "rejected": [user("Ho")]}, "no_prompt"),
        ("pairs", {"chosen": CHAT + CHAT[:1], "rejected": CHAT + CHAT[:1]}, "reply_is_not_the_assistants"),
        ("pairs", {"prompt": "Hi", "replies": ["a"], "ratings": [1]}, "no_reply_is_better"),
        ("pairs", {"prompt": "Hi", "replies": ["a", "b"], "ratings": [1]}, "ratings_do_not_match_replies"),
        ("pairs", {"prompt": "Hi", "replies": ["a", "b"], "ratings": [1, "2"]}, "ratings_are_not_numbers"),
        ("unpaired", {"prompt": "Hi", "completion": "a", "label": 1}, "label_is_not_true_or_false"),
    ],
)
def test_a_row_that_cannot_be_used_has_its_reason(kind, row, reason):
    (found,) = formats.converted({"id": "1", **row}, kind)
    assert found["unreadable"] == reason


@pytest.mark.parametrize(
    ("row", "name", "says"),
    [
        (
            {"instruction": "a", "ouput": "b"},
            "auto",
            "alpaca, which needs output, knows no ouput; did you mean output",
        ),
        ({"messages": CHAT, "topic": 1}, "auto", "conversational, which knows no topic; name another format"),
        ({"messages": CHAT}, "sharegpt", "sharegpt, which needs conversations, knows no messages"),
    ],
)
def test_fields_that_no_format_knows_are_named_with_the_row(row, name, says):
    with pytest.raises(DataError, match=rf"a.jsonl:3: not of format {says}"):
        list(formats.converted({"id": "a.jsonl:3", **row}, "conversations", name))


def written(tmp_path, *rows):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "a.jsonl")


def test_files_of_mixed_formats_are_collected_and_accounted_for(tmp_path):
    rows = [{"prompt": f"Say {i}", "completion": f"{i}"} for i in range(5)]
    rows += [{"instruction": f"Say {i}!", "output": f"{i}", "note": "x"} for i in range(5)]
    rows += [{"messages": [{"role": "tool", "content": "x"}]}]
    (tmp_path / "out").mkdir()
    source = {"path": written(tmp_path, *rows), "ignore": ["note"]}
    counts = work(Collect(kind="conversations", source=[source]), tmp_path / "out")["counts"]
    assert (counts["in"], counts["kept"], counts["rejected"]) == (11, 10, {"unknown_role": 1})


def test_a_parquet_file_of_sharegpt_is_read_too(tmp_path):
    import pyarrow
    import pyarrow.parquet

    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    table = pyarrow.Table.from_pylist([{"conversations": [*turns, *turns[:i]]} for i in (0, 2)])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "out").mkdir()
    source = str(tmp_path / "a.parquet")
    assert work(Collect(kind="conversations", source=source), tmp_path / "out")["counts"]["kept"] == 2


def test_a_json_file_that_is_one_list_is_read_object_by_object(tmp_path):
    rows = [{"instruction": f"Say {i}", "input": "", "output": "x" * (i * 3000)} for i in range(1, 60)]
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps(rows, indent=1))
    read = list(readers.json_array(path, "a"))
    assert [{key: row[key] for key in rows[0]} for row in read] == rows
    (tmp_path / "out").mkdir()
    assert work(Collect(kind="conversations", source=str(path)), tmp_path / "out")["counts"]["kept"] == 59
    path.write_text("\n".join(map(json.dumps, rows)))
    assert len(list(readers.json_array(path, "a"))) == len(rows)
    path.write_text(json.dumps(rows)[:-500])
    torn = list(readers.json_array(path, "a"))
    assert len(torn) == len(rows)
    assert torn[-1]["unreadable"] == "not_json"
    path.write_text("[1, {}]")
    assert [row.get("unreadable") for row in readers.json_array(path, "a")] == ["not_an_object", None]
    path.write_bytes(b'[{"a": "caf\xe9"}]')
    assert [row["unreadable"] for row in readers.json_array(path, "a")] == ["not_utf8"]
    path.write_text("[" + json.dumps({"text": "x" * 200_000}))
    assert [row["unreadable"] for row in readers.json_array(path, "a", most=100_000)] == ["too_long"]


def test_a_format_of_another_kind_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match="pairs have no format 'alpaca'; theirs: explicit, implicit, ratings"
    ):
        work(Collect(kind="pairs", source=[{"path": "x", "format": "alpaca"}]), tmp_path)


def test_the_command_says_one_line_and_exits_with_3(tmp_path):
    path = written(tmp_path, {"prompt": "Hi", "chosen": "a", "rejcted": "b"})
    words = ["data", "collect", f"source={path}", "kind=pairs", f"out={tmp_path / 'out'}"]
    done = subprocess.run(
        [sys.executable, "-m", "llmkit", *words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 3
    assert "explicit, which needs rejected, knows no rejcted; did you mean rejected?" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1

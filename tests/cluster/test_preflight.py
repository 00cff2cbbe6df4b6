"""A rank that runs other code, another recipe or other versions is named before the first step."""

import pytest

from llmkit import dist
from llmkit.cluster import preflight
from llmkit.errors import RankError
from tests.ranks import run


def ranks(count: int, **odd: dict) -> list[dict]:
    """Facts of `count` ranks that agree, but for `odd`: {"r2": {"code": "..."}}."""
    same = dict.fromkeys(preflight.SAME, "1.0")
    return [
        {**same, "host": f"node-{n // 2}", "clock": 1e9 + 0.1 * n, **odd.get(f"r{n}", {})}
        for n in range(count)
    ]


def test_ranks_that_agree_are_let_through():
    assert preflight.difference(ranks(4)) == ""
    assert preflight.skew(ranks(4)) == ""


@pytest.mark.parametrize("key", ["code", "recipe", "torch"])
def test_the_odd_rank_is_named_with_its_host_and_both_values(key):
    line = preflight.difference(ranks(4, r2={key: "abc"}))
    assert line.startswith(f"rank 2 on node-1: its {key} is abc, the others' is 1.0")


def test_the_majority_is_right_and_rank_0_decides_a_draw():
    assert preflight.difference(ranks(3, r0={"code": "abc"})).startswith("rank 0 ")
    assert preflight.difference(ranks(2, r1={"code": "abc"})).startswith("rank 1 ")


def test_a_clock_that_is_off_is_named_and_does_not_stop_the_run():
    odd = ranks(3, r1={"clock": 1e9 - 3600})
    assert preflight.skew(odd).startswith("rank 1 on node-0: its clock is off by -3600 s")
    assert preflight.difference(odd) == ""


def test_the_code_hash_sees_names_and_contents(tmp_path):
    (tmp_path / "a.py").write_text("x = 1")
    before = preflight.code_hash(tmp_path)
    (tmp_path / "a.py").write_text("x = 2")
    changed = preflight.code_hash(tmp_path)
    (tmp_path / "a.py").write_text("x = 1")
    assert preflight.code_hash(tmp_path) == before != changed
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert preflight.code_hash(tmp_path) != before


def start_with_stale_code(stale: int) -> str:
    dist.start("cpu", 30)
    if dist.rank() == stale:
        preflight.code_hash = lambda: "stale"
    try:
        preflight.check("recipe")
        return ""
    except RankError as error:
        return str(error)
    finally:
        dist.stop()


def test_every_rank_stops_with_the_same_line_if_one_has_stale_code():
    first, second = run(start_with_stale_code, 2, 1)
    assert first == second
    assert "its code is stale" in first
    assert run(start_with_stale_code, 2, -1) == ["", ""]

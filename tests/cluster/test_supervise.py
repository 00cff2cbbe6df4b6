"""The supervisor against real launchers, ranks and signals; the ranks run a small script without torch."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from llmkit.checkpoint.runstate import read_exit
from llmkit.cluster import supervise
from llmkit.cluster.place import Place
from llmkit.errors import ConfigError, DivergedError, LlmkitError, RankError, Stopped

RANK = """
import os, signal, sys, time
from pathlib import Path
from llmkit.checkpoint.runstate import write_exit
from llmkit.log import say

rank, run = int(os.environ["RANK"]), Path(os.environ["RUN"])
ends = dict(word.split("=") for word in sys.argv[1:])       # rank -> a code, kill, sleep or serve
asked = []
signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
print("part of a line, ", end="", file=sys.stderr, flush=True)
say(f"here are {os.environ['WORLD_SIZE']} ranks, {os.environ['OMP_NUM_THREADS']} threads each")
print("noise")
(run / f"rank_{rank}.pid").write_text(str(os.getpid()))
end = ends.get(str(rank), "0")
while len(list(run.glob("rank_*.pid"))) < int(os.environ["WORLD_SIZE"]):
    time.sleep(0.02)
if end == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if end == "serve":                                          # a rank that stops when asked
    while not asked:
        time.sleep(0.02)
    write_exit(Path(os.environ["LLMKIT_EXIT_DIR"]), 75, "stopped on request at step 7")
    sys.exit(75)
while end == "sleep":                                       # a rank that is stuck, whatever it is asked
    time.sleep(0.1)
if int(end):
    write_exit(Path(os.environ["LLMKIT_EXIT_DIR"]), int(end), f"rank {rank} says {end}")
sys.exit(int(end))
"""


@pytest.fixture
def world(tmp_path, monkeypatch):
    """`world("1=kill", ...)` runs two such ranks under the supervisor, in this process."""
    script, run_dir = tmp_path / "rank.py", tmp_path / "run"
    script.write_text(RANK)
    run_dir.mkdir()
    monkeypatch.setenv("RUN", str(run_dir))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def start(*ends: str, **options) -> None:
        supervise.run(list(ends), 2, run_dir, program=(str(script),), **options)

    start.run_dir, start.script = run_dir, script
    yield start
    assert not survivors(run_dir)


def survivors(run_dir: Path) -> list[int]:
    """Ranks of the world that still live."""
    pids = [int(file.read_text()) for file in run_dir.glob("rank_*.pid")]
    return [
        pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    ]


def test_what_ranks_say_reaches_the_terminal_and_noise_only_the_log(world, capfd):
    world()
    shown = capfd.readouterr().out
    assert re.fullmatch(r"here are 2 ranks, \d+ threads each\n", shown)
    log = (world.run_dir / "logs" / "launcher.log").read_text()
    assert "noise" in log
    assert shown in log


@pytest.mark.parametrize(("code", "kind"), [(5, DivergedError), (75, Stopped)])
def test_the_ranks_own_error_comes_back(world, code, kind):
    with pytest.raises(kind, match=f"rank 1 says {code}") as caught:
        world(f"1={code}")
    assert caught.value.code == code


def test_a_killed_rank_is_named_and_the_stuck_one_ended_within_seconds(world, monkeypatch):
    monkeypatch.setattr(supervise, "SURVIVORS_S", 0.5)
    with pytest.raises(RankError, match=r"^rank 1 was lost: SIGKILL"):
        world("1=kill", "0=sleep")
    assert time.time() - (world.run_dir / "rank_1.pid").stat().st_mtime < 15  # torch alone takes 30 s
    assert read_exit(world.run_dir)[0] == 6


@pytest.mark.slow
def test_the_rank_that_was_killed_is_named_even_if_a_survivor_complains_first(world):
    with pytest.raises(RankError, match=r"^rank 0 was lost: SIGKILL"):
        world("0=kill", "1=6")


@pytest.mark.slow
def test_without_the_search_for_it_a_lost_rank_would_be_an_unexplained_end(world, monkeypatch):
    monkeypatch.setattr(supervise._Launch, "_find_lost", lambda self: "")
    with pytest.raises(LlmkitError, match="without saying why") as caught:
        world("1=kill")
    assert caught.value.code == 1


@pytest.mark.slow
def test_a_crash_without_a_word_points_to_the_log(world):
    world.script.write_text("raise SystemExit(1)")
    with pytest.raises(LlmkitError, match=r"without saying why; see .*launcher.log") as caught:
        world()
    assert caught.value.code == 1


OUTSIDE = """
import os, sys
from pathlib import Path
from llmkit.cluster import supervise
from llmkit.errors import LlmkitError

run_dir, script, *ends = sys.argv[1:]
if safeguard := os.environ.get("WITHOUT"):
    setattr(supervise, safeguard, lambda: None)
try:
    supervise.run(ends, 2, Path(run_dir), program=(script,))
except LlmkitError as error:
    print(error)
    sys.exit(error.code)
"""


def outside(world, *ends: str) -> subprocess.Popen:
    """The same world in a process of its own, once its ranks are up."""
    command = [sys.executable, "-c", OUTSIDE, str(world.run_dir), str(world.script), *ends]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while len(list(world.run_dir.glob("rank_*.pid"))) < 2 and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.2)
    return process


def test_sigterm_to_the_supervisor_reaches_the_ranks_and_75_comes_back(world):
    process = outside(world, "0=serve", "1=serve")
    process.send_signal(signal.SIGTERM)
    assert "stopped on request at step 7" in process.communicate(timeout=120)[0]
    assert process.returncode == 75


@pytest.mark.slow
def test_a_third_request_ends_ranks_that_do_not_listen(world):
    process = outside(world, "0=sleep", "1=sleep")
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_killing_the_supervisor_leaves_no_ranks_behind(world):
    process = outside(world, "0=serve", "1=serve")
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while survivors(world.run_dir) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not survivors(world.run_dir)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_without_its_leash_the_launcher_would_live_on(world, monkeypatch):
    monkeypatch.setenv("WITHOUT", "_die_with_parent")
    process = outside(world, "0=serve", "1=serve")
    process.kill()
    process.communicate()
    time.sleep(2)
    orphans = [psutil.Process(pid) for pid in survivors(world.run_dir)]
    assert len(orphans) == 2
    launcher = orphans[0].parent()
    for orphan in orphans:
        orphan.terminate()
    psutil.wait_procs([*orphans, launcher], timeout=60)


@pytest.mark.slow
def test_a_port_that_is_taken_after_it_was_chosen_is_replaced(world, monkeypatch, capfd):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(supervise, "free_port", lambda: taken.getsockname()[1])
        world()
        assert "here are 2 ranks" in capfd.readouterr().out


@pytest.mark.slow
def test_a_taken_rendezvous_port_is_a_clear_error(world):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}: the port is in use"):
            world(place=Place(nodes=2, rank=0, host="127.0.0.1", port=port))


def test_a_rank_knows_that_it_is_one(monkeypatch):
    assert supervise.needed(2)
    assert not supervise.needed(1)
    monkeypatch.setitem(os.environ, "RANK", "0")
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    assert not supervise.needed(2)

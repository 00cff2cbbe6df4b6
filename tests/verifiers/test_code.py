"""Programs that a model might write, run for what they print."""

import os
import socket
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from llmkit.verifiers.code import Code, extract, run
from llmkit.verifiers.contained import Contained

FAST = Code.Settings(run_s=2.0)


def test_a_program_is_right_if_it_prints_what_every_test_expects():
    record = {"tests": [{"stdin": "2 3", "stdout": "5"}, {"stdin": "4 4", "stdout": "8\n"}]}
    adds = "Sure:\n```python\na, b = map(int, input().split())\nprint(a + b)\n```\nThat adds."
    assert Code(FAST).score(adds, record) == 1
    assert Code(FAST).score(adds.replace("a + b", "a + 3"), record) == 0
    assert Code(Code.Settings(partial=True)).score(adds.replace("a + b", "5"), record) == 0.5
    assert Code(FAST).score("print(6 * 7)", {"answer": "42"}) == 1
    assert Code(FAST).score("this is no program", {"answer": "42"}) == 0


def test_the_last_block_is_the_program():
    assert extract("```\nx\n```\nor\n```py\ny\n```") == "y\n"


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "import os; os.kill(os.getpid(), 11)",
        "x = bytearray(2 << 30); print(1)",
        "import sys; sys.stdout.write('1' * (2 << 20))",
        "open('big', 'wb').write(b'1' * (2 << 20)); print(1)",
        "import sys; sys.exit(3)",
    ],
)
def test_programs_that_do_not_behave_print_nothing(program):
    start = time.monotonic()
    assert run(program, "", Code.Settings(run_s=1.0)) is None
    assert time.monotonic() - start < 20


def test_the_answer_is_nowhere_to_be_found():
    spy = "import os, sys\nprint(sorted(os.listdir('.')), sys.argv, [k for k in os.environ if 'LLM' in k])"
    assert run(spy, "", FAST) == "['.out'] ['-c'] []\n"


FORKS = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        time.sleep(60)
        os._exit(0)
print(1)
"""


def test_what_a_program_leaves_behind_is_killed_and_counted():
    contained = Contained(Code.Settings(run_s=2.0, timeout_s=20.0))
    try:
        assert contained.scores([(FORKS, {"answer": "1"}), ("print(1)", {"answer": "1"})]) == [1.0, 1.0]
        assert contained.failures["left_processes"] == 1
        worker = psutil.Process(contained._workers[0].process.pid)
        assert [child for child in worker.children(recursive=True) if child.status() != "zombie"] == []
    finally:
        contained.close()


BOMB = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""


@pytest.mark.skipif(
    os.geteuid() != 0, reason="processes are counted for another user, which only root can be"
)
def test_a_fork_bomb_is_contained():
    contained = Contained(Code.Settings(run_s=1.0, timeout_s=20.0))
    try:
        assert contained.scores([(BOMB, {"answer": "1"}), ("print(1)", {"answer": "1"})]) == [0.0, 1.0]
        # whether the last of them is found after the group is killed is a race; that none stays is not
        assert sum(contained.failures.values()) <= 1
        assert within(10.0, lambda: not bombs())
    finally:
        contained.close()


def bombs() -> list[int]:
    """Processes that run BOMB and live."""
    running = psutil.process_iter(["cmdline", "status"])
    return [p.pid for p in running if BOMB in (p.info["cmdline"] or []) and p.info["status"] != "zombie"]


def within(seconds: float, holds) -> bool:
    """Whether `holds()` becomes true in so many seconds."""
    until = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < until:
        time.sleep(0.1)
    return held


def can_unshare() -> bool:
    """Whether this machine lets us make a network of our own, asked in a child."""
    pid = os.fork()
    if pid == 0:
        import ctypes

        flags = 0x40000000 if os.geteuid() == 0 else 0x50000000
        os._exit(1 if ctypes.CDLL(None).unshare(flags) else 0)
    return os.waitpid(pid, 0)[1] == 0


@pytest.mark.skipif(
    sys.platform != "linux" or not can_unshare(), reason="no right to make network namespaces"
)
def test_a_program_has_no_network(tmp_path: Path):
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=lambda: server.accept(), daemon=True).start()
    port = server.getsockname()[1]
    call = f"import socket; socket.create_connection(('127.0.0.1', {port}), 1); print('connected')"
    assert run(call, "", FAST) is None
    socket.create_connection(("127.0.0.1", port), 1).close()
    server.close()

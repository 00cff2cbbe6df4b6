"""The text of .pdf files, by PDFium in a process of its own: what a hostile file costs is bounded there.

    reader ── path ──► python -m llmkit.data.pdf: opens it, writes a line of JSON for each page ──► reader

    too_long        more than MAX_FILE bytes, or a page with more than MAX_PAGE characters
    too_slow        more than MAX_S seconds of processor time
    broken_file     no PDF, encrypted, more than MEMORY bytes, or it makes PDFium crash; `bomb` as elsewhere

What was read before is kept. Words that a line end parts are joined; lines stay as they stand on the page. A
scanned page has no text.
"""

import importlib.util
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmkit.data.readers import BROKEN, failed, opened, unreadable
from llmkit.errors import ConfigError

MAX_FILE = 256 << 20
MAX_PAGE = 4 << 20
MAX_S = 30
"""Seconds: PDFium reads some 300 pages in one."""
MEMORY = 1 << 30
JOINED = dict.fromkeys(map(ord, "\x02\ufffe"))
"""What PDFium writes for a hyphen at the end of a line, and the line end with it."""


def documents(path: Path, name: str, part_bytes: int) -> Iterator[dict[str, Any]]:
    """{id, text} of the file, cut between pages into parts of about `part_bytes`.

    ConfigError where pypdfium2 is not installed.
    """
    if not importlib.util.find_spec("pypdfium2"):
        raise ConfigError("source: .pdf files are read with pypdfium2; pip install 'llmkit[pdf]'")
    held, first, size = [], 1, 0
    for number, found in enumerate(_read(path, name), 1):
        if "unreadable" in found:
            yield found
            continue
        held.append(found["text"])
        size += len(found["text"].encode())
        if size >= part_bytes:
            yield {"id": f"{name}:{first}-{number}", "text": "\n".join(held)}
            held, first, size = [], number + 1, 0
    if held:
        whole = first == 1
        yield {"id": name if whole else f"{name}:{first}-{number}", "text": "\n".join(held)}


def _read(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """{text} of every page, or why it, or the rest of the file, could not be read."""
    command = [sys.executable, "-m", "llmkit.data.pdf", str(path), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            for line in process.stdout:
                if line.endswith(b"\n"):  # not what was torn off
                    yield json.loads(line)
        except BaseException:
            process.kill()
            raise
    if process.returncode == -signal.SIGXCPU:
        yield unreadable(name, "too_slow", f"more than {MAX_S} seconds")
    elif process.returncode:
        yield unreadable(name, "broken_file", f"its reader ended with code {process.returncode}")


# ---- in the process of its own -----------------------------------------------------------------------------


def _pages(path: Path, name: str) -> Iterator[dict[str, Any]]:
    import pypdfium2

    try:
        with opened(path) as file:
            content = file.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            yield unreadable(name, "too_long", f"more than {MAX_FILE >> 20} MiB")
            return
        pdf = pypdfium2.PdfDocument(content)
    except (pypdfium2.PdfiumError, MemoryError, *BROKEN) as error:
        yield failed(name, error)
        return
    for number in range(len(pdf)):
        label = f"{name}:{number + 1}"
        try:
            page = pdf[number]
            text = page.get_textpage().get_text_bounded()
            page.close()
        except (pypdfium2.PdfiumError, MemoryError) as error:
            yield failed(label, error)
            continue
        if len(text) > MAX_PAGE:
            yield unreadable(label, "too_long", text[:200])
        else:
            yield {"text": text.translate(JOINED)}


def main() -> None:
    """Write a line for each page of the file that the first argument names."""
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_S, MAX_S + 5))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for found in _pages(Path(sys.argv[1]), sys.argv[2]):
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()

"""A user's own text: a file, or a folder of .txt, .md, .jsonl, .html, .parquet, .epub, .pdf and .warc."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from llmkit.config import Section
from llmkit.data import extract, formats, pdf, readers, shapes
from llmkit.errors import DataError
from llmkit.log import warn
from llmkit.registry import register

WEB = {".html": extract.html_file, ".htm": extract.html_file, ".epub": extract.epub}
WEB |= {".warc": extract.warc, ".wet": extract.warc}
SUFFIXES = (".txt", ".md", ".jsonl", ".parquet", ".pdf", *WEB)
WANTED = (
    ".txt, .md, .jsonl, .html, .pdf (each also .gz or .zst), .parquet, .epub, .warc or .wet, "
    "or a .json by name"
)

Stretch = tuple[str, int, int, int]
"""Name of a file, first byte and the one after the last, and the lines before it."""
PIECE = 32 << 20
"""Bytes of files that one task reads: a second or two of work at the least."""


@register("source", "files")
class Files:
    """Every readable file under `path`, in order of name: texts as documents, rows of the others by key."""

    class Settings(Section):
        name: Literal["files"] = "files"
        path: str = Field(description="a file or a folder")
        kind: shapes.Kind = Field("documents", description="what the files hold")
        text: str = Field("text", description="key or column that holds a document's text")
        format: str = Field(
            "auto",
            description="shape of the rows, of kinds that have several: " + ", ".join(formats.FORMATS),
        )
        ignore: list[str] = Field([], description="fields of such rows that are left out")
        part_bytes: int = Field(
            50_000,
            ge=1000,
            description="longer files become several documents, cut at blank lines, a .pdf between pages",
        )
        extraction: extract.How = Field(
            "fast", description="how pages become text. fast: resiliparse; precise: trafilatura"
        )
        licence: str = Field(
            "not stated", description="licence of these files, for the manifest and the model card"
        )

        @model_validator(mode="after")
        def _format_is_of_the_kind(self):
            known = [name for name, form in formats.FORMATS.items() if form.kind == self.kind]
            if self.format != "auto" and self.format not in known:
                theirs = ", ".join(known) or "none"
                raise ValueError(f"format: {self.kind} have no format {self.format!r}; theirs: {theirs}")
            return self

    def __init__(self, settings: Settings):
        self.settings = settings
        self.kind = settings.kind
        self.licence = settings.licence
        self.origin = f"files of the user's: {Path(settings.path).expanduser().resolve().name}"
        self.size = "as it is"

    def pieces(self) -> list[list[Stretch]]:
        """Stretches of files, about PIECE bytes together; only plain .jsonl is cut. DataError if none."""
        root = Path(self.settings.path).expanduser()
        pieces: list[list[Stretch]] = [[]]
        room = PIECE
        for path in found(root):
            name = path.relative_to(root).as_posix() if root.is_dir() else path.name
            for start, end, line in stretches(path):
                if room < end - start and pieces[-1]:
                    pieces.append([])
                    room = PIECE
                pieces[-1].append((name, start, end, line))
                room -= end - start
        return pieces

    def records(self, piece: list[Stretch] | None = None) -> Iterator[dict[str, Any]]:
        """Records of the settings' kind, and `{id, unreadable, excerpt}`, of one piece or of all."""
        root = Path(self.settings.path).expanduser()
        for name, *stretch in piece or [stretch for piece in self.pieces() for stretch in piece]:
            yield from self._read(root / name if root.is_dir() else root, name, *stretch)

    def _read(self, path: Path, name: str, start: int, end: int, line: int) -> Iterator[dict[str, Any]]:
        format = suffix(path)
        if format in (".txt", ".md"):
            yield from readers.text_parts(path, name, self.settings.part_bytes)
            return
        if format == ".pdf":
            yield from pdf.documents(path, name, self.settings.part_bytes)
            return
        if format in WEB:
            yield from WEB[format](path, name, self.settings.extraction)
            return
        shaped = any(form.kind == self.kind for form in formats.FORMATS.values())
        if format == ".json":
            rows = readers.json_array(path, name)
        elif format == ".jsonl":
            rows = readers.json_lines(path, name, start, end, line)
        else:
            columns = None if shaped else ["id", *shapes.keys(self.kind, self.settings.text)]
            rows = readers.parquet_rows(path, name, columns)
        for row in rows:
            if shaped:
                s = self.settings
                yield from formats.converted(row, self.kind, s.format, tuple(s.ignore))
            elif "unreadable" in row:
                yield row
            else:
                yield {"id": row["id"], **shapes.chosen(self.kind, row, self.settings.text)}


def found(root: Path) -> list[Path]:
    """The files under `root` that can be read, by name; hidden ones are left out, others are warned about."""
    if not root.exists():
        raise DataError(f"{root}: there is no such file or folder")
    if root.is_file():
        if suffix(root) not in (*SUFFIXES, ".json"):  # in a folder, a .json is some program's settings
            raise DataError(f"{root}: not a kind of file that can be read; {WANTED} can")
        return [root]
    inside = [p for p in sorted(root.rglob("*")) if p.is_file() and not _hidden(p.relative_to(root))]
    wanted = [p for p in inside if suffix(p) in SUFFIXES]
    if not wanted:
        raise DataError(f"{root}: holds no {WANTED} file ({len(inside)} others); name another folder")
    if others := sorted({p.suffix or p.name for p in inside if suffix(p) not in SUFFIXES}):
        warn(
            f"{root}: {len(inside) - len(wanted)} files are not read ({', '.join(others[:8])}); {WANTED} are"
        )
    return wanted


def stretches(path: Path) -> Iterator[tuple[int, int, int]]:
    """(first byte, byte after the last, lines before) of the stretches in which to read a file."""
    size = path.stat().st_size
    if path.suffix.lower() != ".jsonl" or size <= PIECE:
        yield 0, size, 0
        return
    start = line = lines = at = 0
    with path.open("rb") as file:
        while block := file.read(min(PIECE >> 3, 1 << 20)):
            cut = block.find(b"\n") + 1 if at - start >= PIECE else 0
            if cut:
                yield start, at + cut, line
                start, line = at + cut, lines + 1
            lines += block.count(b"\n")
            at += len(block)
    if start < at:
        yield start, at, line


def suffix(path: Path) -> str:
    """The suffix that says what is in a file, without that of its packing."""
    name = Path(path.stem) if path.suffix.lower() in readers.PACKED else path
    return name.suffix.lower()


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)

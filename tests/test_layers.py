"""The import table of docs/design: which layer may not import what. A failure names the file and the line."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "llmkit"

LOW = ("errors", "registry", "config", "trust", "manifest", "checkpoint.store")
SPEED = ("torch", "numpy", "transformers", "deepspeed", "accelerate", "peft", "datasets", "pandas")
PARTICULAR = ("text", "tune", "rl", "vision")

MAY_NOT = {
    LOW: (
        *SPEED,
        *(f"llmkit.{layer}" for layer in ("dist", "models", "data", "engine", "objectives", "eval")),
    ),
    ("verifiers",): (*SPEED, *(f"llmkit.{layer}" for layer in ("models", "data", "engine", "objectives"))),
    ("dist", "log"): tuple(
        f"llmkit.{layer}"
        for layer in ("models", "data", "tokenizer", "checkpoint", "engine", "objectives", "eval")
    ),
    ("models", "vision"): ("llmkit.data", "llmkit.engine", "llmkit.dist"),
    ("data", "tokenizer"): ("llmkit.models", "llmkit.engine", "deepspeed"),
    ("objectives",): ("llmkit.engine", "llmkit.dist", "accelerate", "deepspeed"),
    ("checkpoint",): ("llmkit.engine", "llmkit.objectives"),
    ("engine",): ("llmkit.eval", "llmkit.cli", *(f"llmkit.objectives.{kind}" for kind in PARTICULAR)),
}
"""Layer (modules below llmkit, with all that is in them) -> what none of its files may import, anywhere."""

ONLY_IN = {
    "deepspeed": ("engine.backend_ddp", "engine.backend_zero"),
    "accelerate": ("engine.backend_ddp", "engine.backend_zero"),
    "peft": ("models.lora", "models.hf.reload"),  # the latter runs where llmkit cannot be imported
    "typer": ("cli",),
}
"""Library -> the only modules that may import it."""


def modules(root: Path) -> dict[str, Path]:
    """Every module below `root` by its dotted name, without the leading `llmkit.`."""
    files = {file.relative_to(root).with_suffix(""): file for file in sorted(root.rglob("*.py"))}
    return {".".join(path.parts).removesuffix(".__init__"): file for path, file in files.items()}


def imports(tree: ast.AST):
    """(dotted target, line) of every import in `tree`; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def offences(root: Path) -> list[str]:
    """`file:line: imports X, which ...` for every import below `root` that the table forbids."""
    found = []
    for module, file in modules(root).items():
        layers = [layer for layer in MAY_NOT if any(below(module, part) for part in layer)]
        for target, line in imports(ast.parse(file.read_text(encoding="utf-8"))):
            here = f"{file.relative_to(root.parent)}:{line}: imports {target}"
            for layer in layers:
                found += [
                    f"{here}, but {'/'.join(layer)} may not" for no in MAY_NOT[layer] if below(target, no)
                ]
            for library, homes in ONLY_IN.items():
                if below(target, library) and module not in homes:
                    found.append(f"{here}, which belongs in {' and '.join(homes)} alone")
            private = target.startswith("llmkit.") and any(part[0] == "_" for part in target.split("."))
            if private and not target.startswith("llmkit.__"):
                found.append(f"{here}, which is private")
            if below(module, "models") and not below(module, "models.hf") and below(target, "transformers"):
                found.append(f"{here}, which belongs in models/hf alone")
    return found


def foreign_code(root: Path) -> list[str]:
    """Calls that would run a foreign file's code or unpack it anywhere, which ruff cannot see."""
    found = []
    for file in modules(root).values():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            here = f"{file.relative_to(root.parent)}:{node.lineno}"
            if getattr(node.func, "attr", "") in ("extractall", "unpack_archive"):
                found.append(f"{here}: {node.func.attr}; read the members that are needed instead")
            for word in node.keywords:
                if word.arg == "trust_remote_code" and getattr(word.value, "value", None) is not False:
                    found.append(f"{here}: trust_remote_code; foreign code is not run")
    return found


def cycle(root: Path) -> list[str]:
    """Modules that import each other when they are loaded, in order; empty if there is no such ring."""
    known = modules(root)
    edges = {}
    for module, file in known.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        top = ast.Module(
            [node for node in tree.body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))], []
        )
        targets = [target.removeprefix("llmkit.") for target, _ in imports(top) if below(target, "llmkit")]
        edges[module] = {t if t in known else t.rpartition(".")[0] for t in targets} & set(known) - {
            module,
            "",
        }
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in sorted(edges[module]):
            if ring := visit(target, [*path, module]):
                return ring
        done.add(module)
        return []

    return next((ring for module in sorted(edges) if (ring := visit(module, []))), [])


def test_no_layer_imports_what_it_may_not():
    found = offences(PACKAGE)
    assert not found, "\n" + "\n".join(found)


def test_no_foreign_code_is_run():
    assert not foreign_code(PACKAGE)


@pytest.mark.parametrize(
    "call", ["zip.extractall(here)", "AutoModel.from_pretrained(x, trust_remote_code=True)"]
)
def test_running_foreign_code_is_named_with_its_line(tmp_path, call):
    (tmp_path / "llmkit").mkdir()
    (tmp_path / "llmkit" / "a.py").write_text(f"import x\n{call}\n")
    (offence,) = foreign_code(tmp_path / "llmkit")
    assert offence.startswith("llmkit/a.py:2: ")


def test_no_modules_import_each_other_in_a_ring():
    assert not cycle(PACKAGE), " -> ".join(cycle(PACKAGE))


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("config", "import torch"),
        ("trust", "def open():\n    from numpy import load"),
        ("models/decoder", "from llmkit.engine import loop"),
        ("models/decoder", "from transformers import AutoModel"),
        ("data/sets/text", "import llmkit.models.decoder"),
        ("objectives/tune/sft", "import deepspeed"),
        ("checkpoint/fragments", "from llmkit.objectives.phase import Phase"),
        ("engine/loop", "from llmkit.objectives.tune import dpo"),
        ("cluster/doctor", "import accelerate"),
        ("report/page", "from llmkit.log import _rank"),
    ],
)
def test_an_import_across_layers_is_named_with_its_line(tmp_path, module, line):
    file = tmp_path / "llmkit" / f"{module}.py"
    file.parent.mkdir(parents=True)
    file.write_text(f'"""A module."""\n\n{line}\n')
    found = offences(tmp_path / "llmkit")
    at = f"llmkit/{module}.py:{3 + line.count(chr(10))}: imports"
    assert found
    assert all(offence.startswith(at) for offence in found)


def test_a_ring_of_imports_is_found(tmp_path):
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / f"{name}.py").write_text(f"from llmkit.{other} import thing\n")
    assert cycle(tmp_path) == ["a", "b", "c", "a"]

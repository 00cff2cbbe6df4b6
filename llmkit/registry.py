"""Component names to classes: one file named like the component, found on first use, nothing else imported.

    objective: {name: dpo} -> find("objective", "dpo") -> imports llmkit/objectives/tune/dpo.py -> class Dpo

A component registers itself with `@register(kind, name)` and carries its settings as `cls.Settings`. Plug-ins
do the same from a file (`--plugin`), or from an installed package through the entry points `llmkit.<kind>`.
"""

import difflib
import importlib
import importlib.util
import pkgutil
import sys
from importlib.metadata import entry_points
from pathlib import Path

from llmkit.errors import ConfigError

HOMES = {
    "objective": (
        "llmkit.objectives.text",
        "llmkit.objectives.tune",
        "llmkit.objectives.rl",
        "llmkit.objectives.vision",
    ),
    "model": ("llmkit.models", "llmkit.vision"),
    "dataset": ("llmkit.data.sets",),
    "noise": ("llmkit.data.noise",),
    "source": ("llmkit.data.sources",),
    "filter": ("llmkit.data.filters",),
    "export": ("llmkit.models.hf",),
    "metric": ("llmkit.eval.metrics",),
    "verifier": ("llmkit.verifiers",),
}
"""Where the components of each kind live. A module's name is the component's, `-` written as `_`."""

_classes: dict[tuple[str, str], type] = {}
loaded: list[str] = []
"""The plug-in files that were run, for the processes that work beside this one."""


def register(kind: str, name: str):
    """Class decorator: `cls` is what `find(kind, name)` returns."""

    def keep(cls):
        _classes[kind, name] = cls
        return cls

    return keep


def find(kind: str, name: str) -> type:
    """The class registered as `name`, importing its file if need be. ConfigError names the nearest name."""
    if (kind, name) not in _classes:
        _import_home(kind, name)
    if (kind, name) not in _classes:
        known = names(kind)
        close = difflib.get_close_matches(str(name), known, 1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
        raise ConfigError(f"{kind}.name: there is no {kind} called {name!r}; {hint}")
    return _classes[kind, name]


def names(kind: str) -> list[str]:
    """Every name that `find` would accept, without importing any of them."""
    found = {name for known, name in _classes if known == kind}
    found |= {entry.name for entry in entry_points(group=f"llmkit.{kind}")}
    for home in HOMES[kind]:
        if spec := importlib.util.find_spec(home):
            files = pkgutil.iter_modules(spec.submodule_search_locations)
            found |= {_declared(Path(m.module_finder.path) / f"{m.name}.py", kind) for m in files} - {None}
    return sorted(found)


def _declared(file: Path, kind: str) -> str | None:
    """The name that `file` registers for `kind`, read from its text; None if it registers none."""
    text = file.read_text() if file.is_file() else ""
    start = text.find(f'@register("{kind}", "')
    return text[start:].split('"')[3] if start >= 0 else None


def load_plugin(file: str) -> None:
    """Run a user's Python file so that the components it registers can be named in recipes."""
    path = Path(file).resolve()
    if not path.is_file():
        raise ConfigError(f"--plugin {file}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"llmkit_plugin_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if str(path) not in loaded:
        loaded.append(str(path))


def _import_home(kind: str, name: str) -> None:
    stem = str(name).replace("-", "_")
    for home in HOMES[kind]:
        if (
            stem.isidentifier()
            and importlib.util.find_spec(home)
            and importlib.util.find_spec(f"{home}.{stem}")
        ):
            importlib.import_module(f"{home}.{stem}")
    for entry in entry_points(group=f"llmkit.{kind}", name=name):
        _classes[kind, name] = entry.load()

"""Typed, strict recipes: YAML, then `quick`, then `key=value` overrides, then one frozen pydantic model.

    recipes/pretrain/x.yaml ─► plain dict ─► quick values ─► dotted overrides ─► Section (frozen, strict)

A section that names a component (`objective: {name: dpo, ...}`) is validated by that component's own
`Settings`, found through the registry; nothing else is imported. This module imports neither torch nor numpy.
"""

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import core_schema

from llmkit import options, registry
from llmkit.errors import ConfigError


class Section(BaseModel):
    """A frozen group of settings that takes no unknown key. `quick_values` is what `quick=true` writes.

    `only_with` says of settings that another one decides if they are read at all: {"sigma": ("likelihood",
    "gaussian")}, that one and its values that do; {"r1_every": ("r1",)}, any that is on. `model.` before it
    means the recipe's model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())
    quick_values: ClassVar[dict[str, Any]] = {}
    only_with: ClassVar[dict[str, tuple[str, ...]]] = {}


_open: set[str] = set()
"""Kinds of components whose JSON schema is being made."""


class Component:
    """Annotation of a field that holds the `Settings` of a registered component, chosen by its `name` key."""

    def __init__(self, kind: str):
        self.kind = kind

    def settings(self, value: Any) -> Section:
        if isinstance(value, Section):
            return value
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ValueError(f"needs a mapping with a name; known: {', '.join(registry.names(self.kind))}")
        try:
            component = registry.find(self.kind, value["name"])
        except ConfigError as error:  # a ValueError, to which pydantic adds the dotted key
            raise ValueError(str(error).partition(": ")[2]) from None
        return component.Settings.model_validate(value)

    def __get_pydantic_core_schema__(self, source, handler):
        dump = core_schema.plain_serializer_function_ser_schema(lambda section: section.model_dump())
        return core_schema.no_info_plain_validator_function(self.settings, serialization=dump)

    def __get_pydantic_json_schema__(self, schema, handler):
        if self.kind in _open:  # a component of components (a mixture of datasets): one level is spelt out
            return {"type": "object", "required": ["name"]}
        _open.add(self.kind)
        try:
            kinds = [registry.find(self.kind, name).Settings for name in registry.names(self.kind)]
            return {"oneOf": [inline_schema(kind) for kind in kinds]}
        finally:
            _open.remove(self.kind)


def inline_schema(section: type[Section]) -> dict:
    """The JSON schema of `section` with its `$defs` written in place: it can stand inside another one."""
    schema = section.model_json_schema()
    definitions = schema.pop("$defs", {})

    def put(node):
        if isinstance(node, dict) and "$ref" in node:
            return put(definitions[node["$ref"].rsplit("/", 1)[1]])
        if isinstance(node, dict):
            return {key: put(value) for key, value in node.items()}
        return [put(value) for value in node] if isinstance(node, list) else node

    return put(schema)


# ---- reading -----------------------------------------------------------------------------------------------


class PlainLoader(yaml.SafeLoader):
    """YAML without what surprises or attacks: no tags, aliases or repeated keys.

    As in YAML 1.2, `1e-4` is a number, and `on`, `off`, `yes` and `no` are words.
    """

    def compose_node(self, parent, index):
        if self.check_event(yaml.events.AliasEvent):
            raise ConfigError(f"line {self.peek_event().start_mark.line + 1}: YAML aliases are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ConfigError(f"line {node.start_mark.line + 1}: the key {key!r} stands there twice")
        return super().construct_mapping(node, deep)


PlainLoader.yaml_implicit_resolvers = {
    first: [rule for rule in rules if rule[0] != "tag:yaml.org,2002:bool"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\.\d[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+)$"),
    list("-+0123456789."),
)

MAX_BYTES = 1 << 20


def parse_yaml(text: str, where: str) -> Any:
    """Plain data from YAML text; ConfigError names `where` and the line."""
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{where}: {len(text)} characters are too many for a recipe (at most {MAX_BYTES})")
    try:
        return yaml.load(text, PlainLoader)  # noqa: S506 - PlainLoader is a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}{line}: not valid YAML: {getattr(error, 'problem', error)}") from None
    except ConfigError as error:
        raise ConfigError(f"{where}, {error}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not valid YAML: {error}") from None


def homes(folder: str) -> list[Path]:
    """Where recipes, tokenizer specs and suites are looked for: here, the clone, the installed package."""
    package = Path(__file__).parent
    places = [Path.cwd() / folder, package.parent / folder, package / "share" / folder]
    return [place for place in dict.fromkeys(places) if place.is_dir()]


def locate(name: str, folder: str) -> Path:
    """The YAML file that `name` means: a path, or a name (`quickstart`, `pretrain/tiny`) under `folder`."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    inside = name.removeprefix(f"{folder}/").removeprefix(f"{Path(folder).name}/")
    stems = {}
    for home in homes(folder):
        for file in sorted(home.rglob("*.yaml")):
            relative = file.relative_to(home).with_suffix("").as_posix()
            stems.setdefault(relative, file)
            if inside.removesuffix(".yaml") in (relative, file.stem):
                return file
    close = difflib.get_close_matches(inside.removesuffix(".yaml"), stems, 1, 0.4)
    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(stems)) or 'none'}"
    raise ConfigError(f"{name}: there is no such file, nor a recipe of that name in {folder}/; {hint}")


def read(name: str, folder: str = "recipes") -> dict:
    """The mapping in a recipe file, untyped."""
    path = locate(name, folder)
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text at byte {error.start}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of sections, this is {type(tree).__name__}")
    return tree


def override(tree: dict, assignments: Sequence[str] | dict[str, Any]) -> dict:
    """`tree` with `a.b=value` written into it; values are YAML, so they are typed."""
    if not isinstance(assignments, dict):
        assignments = options.assignments(assignments)
    for key, value in assignments.items():
        tree = _put(tree, key.split("."), value, key)
    return tree


def _put(tree: Any, path: list[str], value: Any, key: str) -> dict:
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{key}: {path[0]} cannot be set inside {tree!r}, which is not a section")
    head, *rest = path
    return {**tree, head: _put(tree.get(head), rest, value, key) if rest else value}


# ---- validating --------------------------------------------------------------------------------------------

S = TypeVar("S", bound=Section)


APPLIED = "applied"
Quick = bool | Literal["applied"]


def resolve(
    model: type[S], tree: dict, assignments: Sequence[str] | dict[str, Any] = (), quick: bool = False
) -> S:
    """`tree` as a `model`: quick values first, then overrides (which win), then strict validation.

    What comes out says `quick: applied`: resolved again, by a rank that was handed it, it stays as it is.
    Raises ConfigError with the dotted key, the value, the rule, and the nearest valid key.
    """
    changed = override(tree, assignments)
    if (quick or changed.get("quick")) and changed.get("quick") != APPLIED:
        tree = {**override(_quick(model, changed), assignments), "quick": APPLIED}
    else:
        tree = changed
    if "quick" not in model.model_fields:
        tree = {key: value for key, value in tree.items() if key != "quick"}
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, model, tree)) from None


def load(model: type[S], name: str, assignments=(), quick: bool = False, folder: str = "recipes") -> S:
    """Read, override and validate the recipe called `name`."""
    return resolve(model, read(name, folder), assignments, quick)


def _settings_class(field, value) -> type[Section] | None:
    """The Section class that will validate `value` in `field`, if it is a section at all."""
    component = _component(field, (Union, UnionType))
    if component and isinstance(value, dict) and isinstance(value.get("name"), str):
        return registry.find(component.kind, value["name"]).Settings
    kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, Section)), None)


def _component(field, origins: tuple) -> Component | None:
    """The Component that annotates `field`, or a part of its type if that is made by one of `origins`."""
    parts = get_args(field.annotation) if get_origin(field.annotation) in origins else ()
    marks = [
        *([] if dict in origins else field.metadata),
        *(m for p in parts for m in getattr(p, "__metadata__", ())),
    ]
    return next((mark for mark in marks if isinstance(mark, Component)), None)


def _labelled(field, value) -> dict[str, type[Section]]:
    """{label: Section class} where `field` maps labels to components, as a suite's tasks do."""
    component = _component(field, (dict,))
    named = value.items() if component and isinstance(value, dict) else ()
    return {
        label: registry.find(component.kind, inner["name"]).Settings
        for label, inner in named
        if isinstance(inner, dict) and isinstance(inner.get("name"), str)
    }


def _quick(model: type[Section], tree: dict) -> dict:
    """`tree` with the `quick_values` of every section in it written over what it says."""
    out = {**tree, **model.quick_values}
    for key, field in model.model_fields.items():
        section = _settings_class(field, out.get(key))
        if section and (isinstance(out.get(key), dict) or (key not in out and section.quick_values)):
            out[key] = _quick(section, out.get(key) or {})
        for label, labelled in _labelled(field, out.get(key)).items():
            out[key] = {**out[key], label: _quick(labelled, out[key][label])}
    return out


def _explain(error: ValidationError, model: type[Section], tree: dict) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    dotted = ".".join(path) or "recipe"
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _known_keys(model, tree, path[:-1])
        close = difflib.get_close_matches(path[-1], known, 1, 0.5)
        prefix = "".join(f"{p}." for p in path[:-1])
        hint = f"did you mean {prefix}{close[0]}?" if close else f"known: {', '.join(sorted(known))}"
        return f"{dotted}: no such setting; {hint}{more}"
    if first["type"] == "missing":
        return f"{dotted}: is required and has no default; set it in the recipe or as {dotted}=VALUE{more}"
    rule = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    value = json.dumps(first["input"], default=str)
    if first["type"] == "value_error" and isinstance(first["input"], (dict, BaseModel)):
        return f"{dotted}: {rule}{more}"
    return f"{dotted}: {value[:80]} {rule}{more}"


def _known_keys(model: type[Section], tree: Any, path: list[str]) -> list[str]:
    labels: dict[str, type[Section]] = {}
    for part in path:
        field = model.model_fields.get(part)
        tree = tree.get(part) if isinstance(tree, dict) else None
        section = labels.pop(part, None) or (_settings_class(field, tree) if field else None)
        if field and section is None and (labels := _labelled(field, tree)):
            continue
        if section is None:
            return []
        model = section
    return list(model.model_fields)


def dump(section: Section) -> str:
    """The resolved section as YAML text, every key written out."""
    return yaml.safe_dump(section.model_dump(mode="json"), sort_keys=False, width=110, allow_unicode=True)


def unread(section: Section, model: Section | None = None) -> dict[str, str]:
    """{setting that was changed though nothing reads it: what it is only for}, by `only_with`."""
    out = {}
    for key, (other, *values) in section.only_with.items():
        holder, name = (model, other[6:]) if other.startswith("model.") else (section, other)
        if not hasattr(holder, name) or getattr(section, key) == type(section).model_fields[key].default:
            continue
        found = getattr(holder, name)
        if found not in values if values else not found:
            out[key] = f"{other}={' or '.join(values)}" if values else other
    return out


def differences(old: dict, new: dict, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """`{dotted key: (old, new)}` wherever two plain trees differ."""
    out = {}
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            out |= differences(a, b, f"{prefix}{key}.")
        elif a != b:
            out[f"{prefix}{key}"] = (a, b)
    return out


__all__ = [
    "Any", "ClassVar", "Component", "Field", "Literal", "Section",
    "differences", "dump", "load", "locate", "override", "parse_yaml", "read", "resolve", "unread",
]  # fmt: skip

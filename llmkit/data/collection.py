"""What `data collect` is asked for: the settings, and the sources and filters that they name."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from llmkit import config, registry
from llmkit.config import Component, Section
from llmkit.data import shapes
from llmkit.errors import ConfigError


class Scale(Section):
    """Where the tasks run if not in processes of this machine."""

    on: Literal["slurm", "ray"] = Field(description="slurm: an array of jobs; ray: $RAY_ADDRESS, or here")
    jobs: int = Field(2, ge=1, description="jobs among which the tasks are shared")
    partition: str = Field("main", description="of Slurm")
    time: str = Field("24:00:00", description="limit of a job on Slurm, hh:mm:ss")
    memory_gb: int = Field(2, ge=1, description="of a job; it needs one core")


class Collect(Section):
    """What to collect. A source is a catalogue name, a path, or a mapping with the settings of a source."""

    quick_values: ClassVar[dict[str, Any]] = {"max_bytes": 1_000_000}

    kind: shapes.Kind = Field("documents", description="what the records are")
    source: str | list[str | dict[str, Any]] = Field(
        description="catalogue names, paths of files or folders, or mappings {name: ..., ...}"
    )
    heldout_frac: float = Field(
        0.02, description="share of the records kept for evaluation, by hash", gt=0, lt=1
    )
    seed: int = Field(0, description="another seed holds out other records", ge=0)
    dedup: bool = Field(
        True, description="keep only the first of records that differ in case and spaces alone"
    )
    steps: list[Annotated[Section, Component("filter")]] = Field(
        [], description="filters of documents in the order in which they are applied: [{name: ...}, ...]"
    )
    keep_rejected: bool = Field(
        False, description="keep what is rejected whole, in rejected/REASON.jsonl, not only an excerpt"
    )
    max_bytes: int | None = Field(
        None,
        description="stop a source after this many bytes of text are kept; one process does it",
        gt=0,
    )
    workers: int = Field(
        1, ge=0, exclude=True, description="processes; 0: one per core. The result is the same bytes"
    )

    scale: Scale | None = Field(
        None, exclude=True, description="a cluster to do the tasks: {on: slurm, jobs: 8}, {on: ray, jobs: 8}"
    )

    @field_validator("source")
    @classmethod
    def _same_with_a_slash(cls, source):
        """`texts/` is `texts`: the same settings, so what is done stays done."""
        if isinstance(source, list):
            return [cls._same_with_a_slash(entry) if isinstance(entry, str) else entry for entry in source]
        return source.rstrip("/") or source

    def inputs(self) -> dict[str, str]:
        """The user's own files and folders: when they change, what was collected from them is out of date."""
        read = {label: getattr(source.settings, "path", None) for label, source in sources(self).items()}
        against = {path: path for step in self.steps for path in getattr(step, "against", [])}
        return {label: path for label, path in read.items() if path} | against


def filters(settings: Collect) -> dict[str, Any]:
    """{name: filter} of the `steps`, in order; a name that comes again gets a number."""
    if settings.steps and settings.kind != "documents":
        raise ConfigError(f"steps: filters judge documents, not {settings.kind}; leave them out")
    made: dict[str, Any] = {}
    for step in settings.steps:
        again = sum(known.split("#")[0] == step.name for known in made)
        made[f"{step.name}#{again + 1}" if again else step.name] = registry.find("filter", step.name)(step)
    return made


def sources(settings: Collect) -> dict[str, Any]:
    """{label: source object} of the `source` setting, in order; a label that comes again gets a number."""
    entries = [settings.source] if isinstance(settings.source, str) else settings.source
    if not entries:
        raise ConfigError("source: names nothing; give a catalogue name, or the path of a file or folder")
    made: dict[str, Any] = {}
    for entry in entries:
        label, source = _source(entry, settings.kind)
        again = sum(known.split("#")[0] == label for known in made)
        made[f"{label}#{again + 1}" if again else label] = source
    return made


def _source(entry: str | dict[str, Any], kind: str):
    """(label, source object) of one entry of the `source` setting."""
    if isinstance(entry, str):
        named = entry in registry.names("source") and entry != "files"
        if not named and not Path(entry).expanduser().exists() and "/" not in entry:
            raise ConfigError(
                f"source: {entry!r} is neither a file or folder here nor in the catalogue "
                f"({', '.join(sorted(set(registry.names('source')) - {'files'}))})"
            )
        entry = {"name": entry} if named else {"path": entry}
    entry = {"name": "files", **entry}
    cls = registry.find("source", entry["name"])
    if "kind" in cls.Settings.model_fields:
        entry = {"kind": kind, **entry}
    source = cls(config.resolve(cls.Settings, entry))
    if source.kind != kind:
        raise ConfigError(f"source: {entry['name']} holds {source.kind}, not {kind}; set kind={source.kind}")
    return str(entry.get("path", entry["name"])), source

"""One way to run any stage: skip what is done, work in a staging directory, rename, leave a manifest."""

import contextlib
import shutil
import time
from pathlib import Path
from typing import Any

from llmkit import manifest
from llmkit.config import Section, differences
from llmkit.errors import ConfigError
from llmkit.log import say


def perform(
    verb: str, settings: Section, out: Path, inputs: dict[str, str], work, fresh: bool = False
) -> dict[str, Any]:
    """Run `work(staging) -> result` unless `out` already holds its result, and return the manifest's facts.

    `inputs` maps labels to directories; their fingerprints and the settings decide if `out` is up to date.
    ConfigError with a two-column difference if `out` was made by other settings (`--fresh` moves it aside).
    """
    config = settings.model_dump(mode="json")
    facts: dict[str, Any] = {
        "verb": verb,
        "config": config,
        "config_hash": manifest.digest(config),
        "inputs": {label: manifest.state(Path(folder)) for label, folder in inputs.items() if folder},
        "input_paths": {label: str(folder) for label, folder in inputs.items() if folder},
    }
    if (out / manifest.NAME).exists() and not fresh:
        old = manifest.read(out)
        then, now = ({key: f[key] for key in ("config", "inputs")} for f in (old, facts))
        changed = differences(then, now)
        if not changed:
            say(f"{verb}: {out} is done already")
            return old
        raise ConfigError(
            f"{out}: was made with other settings; use another out=, or --fresh\n{columns(changed)}"
        )
    staging = out.with_name(f".{out.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    above = next(folder for folder in staging.absolute().parents if folder.exists())
    staging.mkdir(parents=True)
    start = time.monotonic()
    try:
        result = work(staging)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for made in staging.absolute().parents[: -len(above.parents) - 1]:
            with contextlib.suppress(OSError):  # others have put something there
                made.rmdir()
        raise
    lifted = {key: result.pop(key) for key in ("counts", "licences") if key in result}
    facts |= {"seconds": round(time.monotonic() - start, 2), "status": "done", **lifted, "result": result}
    manifest.write(staging, **facts)
    move_aside(out)
    staging.rename(out)
    say(f"{verb}: {out} is done")
    return facts


def move_aside(out: Path) -> None:
    """Rename an existing `out` to the next free `out.old-N`: --fresh loses nothing."""
    if out.exists():
        number = 1
        while (aside := out.with_name(f"{out.name}.old-{number}")).exists():
            number += 1
        out.rename(aside)
        say(f"moved {out} to {aside}")


def columns(changed: dict[str, tuple[Any, Any]]) -> str:
    """A two-column table `key: old | new` of `config.differences`."""
    width = max(map(len, changed))
    return "\n".join(f"  {key:{width}}  {old!r} -> {new!r}" for key, (old, new) in changed.items())

"""A tokenizer learnt from a set of short texts on first use, and kept: nothing has to be run before.

texts ─► CACHE/tokenizers/KEY/, as `llmkit tokenizer train` makes it     KEY = digest(texts, pieces, library)

The same texts give the same pieces, so ranks without a common disk agree, and a run that goes on finds its
own again. A checkpoint carries a copy like that of any tokenizer.
"""

import contextlib
import json
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from llmkit import caches, config, manifest
from llmkit.errors import DataError
from llmkit.tokenizer import train


def folder(texts: Sequence[str], vocab_size: int) -> Path:
    """The directory of a BPE tokenizer of `texts`, of at most `vocab_size` pieces, made if it is not there.

    Any number of processes may ask at once. ConfigError or DataError if none can be made of them.
    """
    if not any(map(str.strip, texts)):
        raise DataError(f"captions: all {len(texts)} of them are empty; give a set in which they are not")
    key = manifest.digest([list(texts), vocab_size, version("sentencepiece")])
    home = caches.folder("tokenizers") / key[:32]
    if (home / manifest.NAME).is_file():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".") as scratch:
        data, made = Path(scratch) / "texts", Path(scratch) / "made"
        data.mkdir(), made.mkdir()
        spaced = [] if any(" " in text for text in texts) else [f"{texts[0]} {texts[-1]}"]
        lines = [json.dumps({"text": text}) + "\n" for text in (*texts, *spaced)]  # a space has to be a piece
        (data / "train.jsonl").write_text("".join(lines), encoding="utf-8")
        spec = train.TokenizerSpec(data=str(data), vocab_size=vocab_size, at_most=True)
        result = train.work(spec, made)
        lasting = spec.model_copy(update={"data": "captions"})
        (made / "spec.yaml").write_text(config.dump(lasting), encoding="utf-8")
        manifest.write(made, verb="tokenizer.train", config=lasting.model_dump(mode="json"), result=result)
        with contextlib.suppress(OSError):  # another process has just put the same there
            made.rename(home)
    return home

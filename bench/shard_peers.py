"""Sharding side by side with datatrove: same documents, tokenizer and cores, and the same bytes of output.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install 'datatrove[processing,io]' tokenizers
    python bench/shard_peers.py DATA TOKENIZER OUT --peer /tmp/peer/bin/python [--megabytes 40] [--runs 3]

DATA is a directory of `data collect`, TOKENIZER one of `tokenizer train`. Both sides begin with a .jsonl on
disk and end with a .bin and an .idx in Megatron's format. datatrove runs MegatronDocumentTokenizer, one task
per core over parts of the input made beforehand, each with one thread of `tokenizers`; llmkit runs
`data shard` with as many processes. Start-up and imports are part of the time on both sides. The runs
alternate, and the best of each counts. With one core both outputs are compared byte by byte; documents that
spell a control token (`<s>` in a text about HTML) are left out, since datatrove makes the token of it.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

PEER = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import MegatronDocumentTokenizer
data, tokenizer, out, cores = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
LocalPipelineExecutor(
    pipeline=[JsonlReader(data), MegatronDocumentTokenizer(out, None, tokenizer, eos_token=None)],
    tasks=cores, workers=cores, logging_dir=out + "/logs",
).run()
"""


def prepare(data: Path, out: Path, most: int, cores: int, controls: list[str]) -> tuple[int, int, int]:
    """The first `most` bytes of text for both sides -> (documents, bytes, documents left out)."""
    (out / "whole").mkdir(parents=True)
    (out / "parts").mkdir()
    parts = [(out / "parts" / f"{i}.jsonl").open("w") for i in range(cores)]
    documents = size = left_out = 0
    with (data / "train.jsonl").open() as source, (out / "whole" / "train.jsonl").open("w") as whole:
        for line in source:
            text = json.loads(line)["text"]
            if any(control in text for control in controls):
                left_out += 1
                continue
            size += len(text.encode())
            whole.write(line)
            parts[documents % cores].write(line)
            documents += 1
            if size >= most:
                break
    for part in parts:
        part.close()
    (out / "whole" / "heldout.jsonl").write_text(
        (out / "whole" / "train.jsonl").read_text().partition("\n")[0]
    )
    return documents, size, left_out


def timed(command: list[str], **env: str) -> float:
    started = time.monotonic()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    done = subprocess.run(command, env={**os.environ, **env}, **quiet, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--megabytes", type=float, default=40)
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    described = json.loads((asked.tokenizer / "tokenizer.json").read_text())
    controls = [token["content"] for token in described["added_tokens"] if token["special"]]
    print("| cores | llmkit MB/s | datatrove MB/s | ratio | output |")
    print("|---|---|---|---|---|")
    for cores in (1, 2):
        work = asked.out / f"{cores}_cores"
        documents, size, left_out = prepare(asked.data, work, int(asked.megabytes * 1e6), cores, controls)
        ours = [sys.executable, "-m", "llmkit", "data", "shard", f"data={work / 'whole'}", f"workers={cores}"]
        ours += [f"tokenizer={asked.tokenizer}", f"out={work / 'ours'}"]
        theirs = [asked.peer, "-c", PEER, str(work / "parts"), str(asked.tokenizer / "tokenizer.json")]
        theirs += [str(work / "theirs"), str(cores)]
        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        for _ in range(asked.runs):
            for name, command in (("ours", ours), ("theirs", theirs)):
                shutil.rmtree(work / name, ignore_errors=True)
                seconds[name].append(timed(command, RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false"))
        mine, peer = (size / min(seconds[name]) / 1e6 for name in ("ours", "theirs"))
        print(
            f"| {cores} | {mine:.2f} | {peer:.2f} | {mine / peer:.2f} | {compared(work, cores)} |", flush=True
        )
    print(f"{documents} documents, {size / 1e6:.1f} MB of text, {left_out} left out")


def compared(work: Path, cores: int) -> str:
    if cores > 1:
        return "not compared: datatrove's order depends on the number of tasks"
    for ending in ("bin", "idx"):
        (mine,), (peer,) = ((work / "ours").glob(f"train_*.{ending}"), (work / "theirs").glob(f"*.{ending}"))
        if mine.read_bytes() != peer.read_bytes():
            sys.exit(f"{mine} and {peer} differ")
    return "the same bytes, .bin and .idx"


if __name__ == "__main__":
    main()

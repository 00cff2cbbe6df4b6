"""llmkit's command line on the pretended GPU. The last line that it prints is JSON: each step's waits.

python -m tests.gpu.cli train RECIPE out=DIR
"""

import json
import sys

from llmkit.cli import main
from llmkit.engine.meter import Meter
from tests.gpu import device


def watch(gpu: device.Gpu) -> dict[str, dict[str, int]]:
    """{step: waits}, filled in as steps are taken; not those for a step's line of figures and checkpoint."""
    steps: dict[str, dict[str, int]] = {}
    begin, end = Meter.begin, Meter.end

    def begin_(meter, step, factor):
        gpu.waits.clear()
        begin(meter, step, factor)

    def end_(meter, done, figures):
        steps[str(done)] = dict(gpu.waits)
        end(meter, done, figures)

    Meter.begin, Meter.end = begin_, end_
    return steps


if __name__ == "__main__":
    device.pretend()
    with device.Gpu() as gpu:
        steps = watch(gpu)
        try:
            code = main()
        except SystemExit as left:
            code = left.code
    print(json.dumps(steps))
    sys.exit(code)

"""`python -m llmkit`, which is also what launchers start: `accelerate launch -m llmkit train RECIPE`."""

import os
import sys

from llmkit.cli import main
from llmkit.errors import RankError

code = main()
if code == RankError.code:  # gloo may wait for a lost rank for ever when the interpreter frees its group
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)

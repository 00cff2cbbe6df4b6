"""`python -m llmkit`, which is also what launchers start: `accelerate launch -m llmkit train RECIPE`."""

import faulthandler
import os
import sys

from llmkit.cli import main
from llmkit.errors import RankError

rank = "LOCAL_RANK" in os.environ
if rank:
    faulthandler.enable()  # if C++ aborts it, its log says where it was
code = main()
if rank or code == RankError.code:
    # Of what the interpreter frees at its end, gloo's threads abort the process now and then, and its groups
    # may wait for a lost rank for ever.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)

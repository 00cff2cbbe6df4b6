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
    # The interpreter frees nothing then: gloo may wait for a lost rank for ever, and a rank whose run was
    # complete has been seen to abort (once in some thousand tests; why was not found).
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)

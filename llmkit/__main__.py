"""`python -m llmkit`, which is also what launchers start: `accelerate launch -m llmkit train RECIPE`."""

import sys

from llmkit.cli import main

sys.exit(main())

"""A verifier for tests, loaded as a user's plug-in would be: an opinion about any text."""

import hashlib
import os
import signal
from pathlib import Path

from pydantic import Field

from llmkit.registry import register
from llmkit.verifiers.verifier import Verifier, VerifierSettings


@register("verifier", "odd")
class Odd(Verifier):
    """A number drawn from the reply's text. The run may be killed while reply `at` is judged."""

    class Settings(VerifierSettings):
        name: str = "odd"
        kill: str = Field("", description="file in which replies are counted; a run dies only once")
        at: int = Field(0, description="which reply is the run's last")
        broken: bool = Field(False, description="has no opinion: every reply raises")

    needs = ()

    def score(self, reply, record):
        if self.settings.broken:
            raise ValueError(reply)
        if self.settings.kill:
            with open(self.settings.kill, "a") as file:
                file.write(".")
            if Path(self.settings.kill).stat().st_size == self.settings.at:
                os.kill(os.getppid(), signal.SIGKILL)
        return int(hashlib.sha256(reply.encode()).hexdigest()[:4], 16) / 65535

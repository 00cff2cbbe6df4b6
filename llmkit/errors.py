"""The exception tree. Each class carries the exit code that the command line returns for it.

A message is one line, `<where>: <what is wrong>; <what to do>`, the dotted key or the file and line in front.
"""


class LlmkitError(Exception):
    """Anything llmkit wants to tell a person. Subclasses set `code`, the process's exit status."""

    code = 1


class ConfigError(LlmkitError):
    """A recipe, an override, an argument or the machine does not fit what was asked for."""

    code = 2


class DataError(LlmkitError):
    """Input data is missing, broken, empty, or made for something else."""

    code = 3


class CheckpointError(LlmkitError):
    """A checkpoint is missing, torn, damaged or does not fit the run."""

    code = 4


class TrustError(LlmkitError):
    """A foreign file asks for what llmkit does not do with foreign files (run code, unpickle, escape)."""

    code = 4


class DivergedError(LlmkitError):
    """Training produced non-finite numbers beyond its budget."""

    code = 5


class RankError(LlmkitError):
    """A rank was lost, or the ranks disagree about what they run."""

    code = 6


class ExportRefused(LlmkitError):
    """The exported model or tokenizer does not compute what the original computes."""

    code = 7


class Stopped(LlmkitError):
    """Not a failure: the run was asked to stop, and a checkpoint has been published."""

    code = 75


def of_code(code: int, line: str) -> LlmkitError:
    """The error of which another process said `line` and exited with `code`."""
    kind = next((kind for kind in LlmkitError.__subclasses__() if kind.code == code), LlmkitError)
    error = kind(line)
    error.code = code
    return error

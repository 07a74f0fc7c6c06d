"""What a person did or gave that cannot work: entry points tell it in one line, without a traceback."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """A file or setting that cannot be used; the message names it, its value and what is allowed."""

    def __init__(self, message: object):
        super().__init__(printable(message))


class RunHeld(RuntimeError):
    """Another process works on this run folder."""


def printable(text: object) -> str:
    """`text` with every byte of a file name that is no UTF-8 as \\xNN."""
    return re.sub("[\udc80-\udcff]", lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", str(text))


@contextmanager
def one_line_errors(*others: type[Exception]) -> Iterator[None]:
    """InputError and the `others` are told in one line and exit 1; a run held elsewhere exits 3."""
    try:
        yield
    except RunHeld as error:
        print(error, file=sys.stderr)
        sys.exit(3)
    except (InputError, *others) as error:
        print("error:", one_line(error), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def one_line(error: BaseException) -> str:
    cause = error  # configuration libraries wrap what a constructor raises
    while cause.__cause__ is not None and not isinstance(cause, InputError):
        cause = cause.__cause__
    error = cause if isinstance(cause, InputError) else error
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = str(error).partition("Config search path")[0]  # of Hydra
    if text.startswith("Caught InputError in DataLoader worker"):  # with the worker's traceback
        text = text.rpartition("InputError: ")[2]
    return " ".join(text.split())

"""Errors that a user can fix: commands print them in one line, without a traceback."""

import math
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """A file or setting that cannot be used; the message names it, its value, what is allowed."""

    def __init__(self, message: object):
        super().__init__(printable(message))


class RunLocked(RuntimeError):
    """Another process works on this run folder."""


def printable(text: object) -> str:
    """`text` with every byte of a file name that is no UTF-8 as \\xNN."""
    return re.sub("[\udc80-\udcff]", lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", str(text))


def check_range(
    name: str, value: float | Iterable[float], least: float = -math.inf, most: float = math.inf
) -> None:
    """InputError unless the setting `name`, each number of it, lies in [least, most]."""
    numbers = value if isinstance(value, Iterable) else [value]
    if not all(least <= number <= most for number in numbers):
        allowed = f"at least {least}" if most == math.inf else f"from {least} to {most}"
        raise InputError(f"{name}={value}: allowed is {allowed}")


@contextmanager
def one_line_errors(*others: type[Exception]) -> Iterator[None]:
    """InputError and the `others` are printed in one line and exit 1; RunLocked exits 3."""
    try:
        yield
    except RunLocked as error:
        print(error, file=sys.stderr)
        sys.exit(3)
    except (InputError, *others) as error:
        print("error:", one_line(error), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; the same command resumes from here", file=sys.stderr)
        sys.exit(130)


def input_error(error: BaseException | None) -> InputError | None:
    """The InputError that caused an error: configuration libraries wrap what is raised."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__
    return error


def one_line(error: BaseException) -> str:
    """The message of an error, or of the InputError that caused it, in one line."""
    error = input_error(error) or error
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = str(error).partition("Config search path")[0]  # of Hydra
    if text.startswith("Caught InputError in DataLoader worker"):  # with the worker's traceback
        text = text.rpartition("InputError: ")[2]
    return " ".join(text.split())

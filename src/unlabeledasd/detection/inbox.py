"""Recordings in folders: which there are, of which machine, which come, which came before."""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import NamedTuple

from unlabeledasd.audio.clip_names import CONDITION_WORDS, SPLITS, composed
from unlabeledasd.audio.folders import Found, LeftOut, walk
from unlabeledasd.errors import InputError

SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".w64"),
    *(".rf64", ".au", ".snd", ".caf"),
)
LAYOUT_FOLDERS = {*SPLITS, *CONDITION_WORDS}  # below a machine's folder in a dataset
POLL_SECONDS = 0.5
IDLE_SHARE = 0.01  # of a core, at most, for looking at folders in which nothing happens
ROUNDS = 20  # a recording that was given out is looked at every so many rounds


class Recording(NamedTuple):
    """A recording, and the argument that it was found by: itself, or the folder it lies below."""

    path: Path
    argument: Path


@dataclass
class Inbox:
    """Recordings, and what lies next to them."""

    recordings: list[Recording] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    unreadable: list[InputError] = field(default_factory=list)


def look(arguments: Iterable[Path]) -> Inbox:
    """The recordings that `arguments` name, files or folders, each once."""
    inbox, known = Inbox(), set()
    for argument in arguments:
        paths = [argument]
        if argument.is_dir():
            found = walk(argument, SUFFIXES)
            inbox.left_out.merge(found.left_out, f"{argument}/")
            inbox.unreadable += found.unreadable
            paths = [argument / path for path in found.files]
        for path in paths:
            key = os.path.abspath(path)  # noqa: PTH100  links stay links
            if key not in known:
                known.add(key)
                inbox.recordings.append(Recording(path, argument))
    return inbox


def machine_of(recording: Recording, machines: list[str]) -> str | None:
    """The machine whose name the nearest folder has, up to the argument; else the only machine.

    Folders above the argument say nothing, except in the layout of a dataset, where train/ and
    test/normal/ lie below the machine's. None where no folder is named as one of several machines.
    """
    path, argument = recording
    if path == argument:
        top, folders = path.parent, []
    else:
        top = Path(os.path.abspath(argument))  # noqa: PTH100
        folders = list(path.parent.relative_to(argument).parts)
    folders.insert(0, top.name)
    while top.name.lower() in LAYOUT_FOLDERS:
        top = top.parent
        folders.insert(0, top.name)
    names = {composed(machine): machine for machine in machines}
    named = [names[name] for name in map(composed, folders) if name in names]
    if named or len(machines) == 1:
        return (named or machines)[-1]
    return None


@dataclass
class Seen:
    """A file of a folder that is watched."""

    state: tuple[int, int]  # size in bytes, time of the last change
    since: float  # when this state was seen first
    is_given: bool  # whether nothing is to be done until it changes


def settled(folder: Path, seconds: float, report: Callable[[Found], object]) -> Iterator[Recording]:
    """The recordings below `folder`, and those that come, forever.

    Each is given as soon as its size and time have not changed for `seconds`, so that one that is
    being written is not read half. A file that changes later is given again.
    report: is called with what a first look finds, and when other folders cannot be read.
    """
    seen: dict[str, Seen] = {}
    unreadable = None
    for turn in count():
        begin = time.process_time()
        found = walk(folder, SUFFIXES)
        if (closed := [str(error) for error in found.unreadable]) != unreadable:
            report(found)
            unreadable = closed
        ready = [
            path
            for number, path in enumerate(found.files)
            if is_settled(seen, folder, path, seconds, (number + turn) % ROUNDS == 0)
        ]
        if len(seen) > len(found.files) and not closed:  # some were taken away
            seen = {path: seen[path] for path in found.files if path in seen}
        busy = time.process_time() - begin
        yield from (Recording(folder / path, folder) for path in ready)
        time.sleep(max(POLL_SECONDS, busy / IDLE_SHARE))


def is_settled(
    seen: dict[str, Seen], folder: Path, path: str, seconds: float, is_its_turn: bool
) -> bool:
    """Whether a file is to be given out now; is_its_turn: to be looked at though it was."""
    file = seen.get(path)
    if file and file.is_given and not is_its_turn:
        return False
    try:
        status = os.stat(f"{folder}/{path}")  # noqa: PTH116  a hundredth of a second for 20,000
    except OSError:  # taken away meanwhile
        return False
    state, now = (status.st_size, status.st_mtime_ns), time.monotonic()
    if file is None or file.state != state:
        seen[path] = Seen(state, now, is_given=status.st_size == 0)  # an empty file will change
    elif not file.is_given and now - file.since >= seconds:
        file.is_given = True
        return True
    return False


class Copies:
    """Recordings that came before."""

    def __init__(self) -> None:
        self.by_size: dict[int, Path] = {}  # the first one of this size
        self.by_content: dict[bytes, Path] = {}

    def earlier(self, path: Path) -> Path | None:
        """A file of the same bytes that was asked about before, or the same file."""
        first = self.by_size.setdefault(path.stat().st_size, path)
        if first == path:
            return None
        with suppress(OSError):  # the first was taken away meanwhile
            self.by_content.setdefault(content(first), first)
        other = self.by_content.setdefault(content(path), path)
        return None if other == path else other


def content(path: Path) -> bytes:
    """A hash of the bytes of a file."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()

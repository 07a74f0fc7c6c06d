"""What a folder of recordings contains: one walk for all commands."""

import os
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from unlabeledasd.errors import InputError

# of file servers, archives and operating systems, in lower case
SYSTEM_FOLDERS = {
    *("@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "__macosx", "lost+found"),
    *("$recycle.bin", "recycler", "system volume information"),
}
FILE = "file"
PARTIAL_SUFFIXES = (
    *(".part", ".partial", ".filepart", ".crdownload", ".opdownload", ".download"),
    *(".tmp", ".temp", ".aria2", ".!qb", ".!ut", "~"),
)


@dataclass
class LeftOut:
    """What a walk leaves out: how many of each kind, and the first of them."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, path: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.first.setdefault(kind, path)

    def merge(self, other: "LeftOut", prefix: str) -> None:
        for kind, count in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
            self.first.setdefault(kind, prefix + other.first[kind])

    def __str__(self) -> str:
        """As "2 .mp3 (fan/train/a.mp3), 1 hidden (fan/train/.x)"; empty where nothing was."""
        kinds = sorted(self.counts, key=lambda kind: (-self.counts[kind], kind))
        return ", ".join(f"{self.counts[kind]} {kind} ({self.first[kind]})" for kind in kinds)


@dataclass
class Found:
    """files: paths relative to the folder, with /, sorted; unreadable: folders that are closed."""

    files: list[str] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    unreadable: list[InputError] = field(default_factory=list)


def why_left_out(name: str) -> str | None:
    """The kind of a file or folder that is left out for its name; None for any other."""
    lower = name.lower()
    if name.startswith("."):
        return "hidden"
    if lower in SYSTEM_FOLDERS:
        return "of the system"
    if lower.endswith(PARTIAL_SUFFIXES) or lower.startswith("~$"):
        return "partial"
    return None


def walk(folder: Path, suffixes: Iterable[str], deep: bool = True) -> Found:
    """The files below `folder` whose names end in one of `suffixes`, in any case of letters.

    deep: subfolders too. Links are followed, but each folder is entered once, and none that the
    folder itself lies in, so that links in a circle end. Left out and counted are hidden, partial
    and system files and folders, other formats, and what is no file. A broken link and a folder
    named like a recording are given as files: whoever reads them reports them.
    """
    found, suffixes = Found(), tuple(suffixes)
    entered = set()
    for parent in folder.resolve().parents:
        with suppress(OSError):  # of a file system that went away
            entered.add(identity(parent))
    folders: deque[str] = deque([""])
    links: deque[str] = deque()
    while folders or links:
        place = (folders or links).popleft()
        try:
            here = identity(folder / place)
            if here in entered:
                found.left_out.add("linked again", place)
                continue
            entered.add(here)
            with os.scandir(folder / place) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            found.unreadable.append(InputError(f"{folder / place}: {error.strerror}"))
            continue
        for entry in entries:
            path = f"{place}/{entry.name}" if place else entry.name
            is_named = path.lower().endswith(suffixes)
            kind = why_left_out(entry.name) or kind_of(entry, is_named)
            if kind == FILE:
                found.files.append(path)
            elif kind == "folder" and deep:
                (links if entry.is_symlink() else folders).append(path)
            else:
                found.left_out.add(kind, path)
    found.files.sort()
    return found


def identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def kind_of(entry: os.DirEntry, is_named: bool) -> str:
    """FILE, "folder" or why it is left out; is_named: by its suffix it is a recording."""
    try:
        if entry.is_file() or (is_named and entry.is_dir()):
            return FILE if is_named else Path(entry.name).suffix.lower() or "without a suffix"
        if entry.is_dir():
            return "folder"
        entry.stat()
        return "no regular file"
    except OSError:  # of a link
        return FILE if is_named else "broken link"

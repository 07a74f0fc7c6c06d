"""Names of evaluation test clips: the official list, what lies in a folder, and the journal of a
renaming.

Safe to kill at any moment: first the whole mapping is written to a journal, atomically; then each
clip is renamed by one atomic call. A clip is therefore always found under one of its own names, so
every call, the first or the one after a kill, does the same: it looks which clip has which name,
refuses what does not fit, and renames the rest.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from unlabeledasd.audio.clip_names import (
    FULL_NAME,
    NO_ATTRIBUTE,
    SPLIT_FOLDERS,
    bare_name,
    full_name,
    section_of,
)
from unlabeledasd.clips import AUDIO_SUFFIXES
from unlabeledasd.errors import InputError
from unlabeledasd.files import write_text

JOURNAL_COLUMNS = ["bare", "published", "named", "bytes"]


@dataclass(frozen=True)
class Names:
    """The names of one clip."""

    bare: str  # section_00_0000.wav, section_00_source_test_0000.wav or id_00_00000000.wav
    published: str  # as the list writes it
    named: str  # the same by the grammar of clip names

    @property
    def all(self) -> set[str]:
        return {self.bare, self.published, self.named}

    @property
    def hides_attribute(self) -> bool:
        return self.named.endswith(f"_{NO_ATTRIBUTE}.wav")


def without_attribute(name: str) -> str | None:
    """section_00_source_test_normal_0031 of a full name with any attribute; None: no such name."""
    match = FULL_NAME.fullmatch(name.removesuffix(".wav"))
    if not match or not name.endswith(".wav"):
        return None
    return name[: match.start("attribute") - 1] if match["attribute"] else match[0]


def named_by(published: str) -> str | None:
    """The published name, or the same with the `_test_` that RoboticArm's names of 2024 lack;
    None: no clip name."""
    name = re.sub(
        r"^(section_\d{2}_(?:source|target))_(normal|anomaly)_", r"\1_test_\2_", published
    )
    match = full_name(name.removesuffix(".wav"))
    of_test = match and match.groupdict().get("split", "test") == "test"
    return name if of_test and name.endswith(".wav") and "/" not in name else None


def is_bare(name: str) -> bool:
    return name.endswith(".wav") and bare_name(name.removesuffix(".wav")) is not None


def read_lists(text: str, source: Path | str) -> dict[str, list[Names]]:
    """Machine -> names of its test clips, of an `eval_data_list_<year>.csv`: a machine's name
    alone on a line, then a line `bare name,full name` for each of its clips; that of 2020 ends with
    1 for an anomaly, else 0."""
    lists: dict[str, list[Names]] = {}
    rows: list[Names] | None = None
    for number, cells in enumerate(csv.reader(io.StringIO(text)), 1):
        if len(cells) == 1:
            rows = lists.setdefault(cells[0].strip(), [])
        elif cells:
            bare, published, *label = (cell.strip() for cell in cells[:3])
            named = named_by(published)
            agrees = not label or label == [str(int("anomaly" in published))]
            if rows is None or named is None or not is_bare(bare) or not agrees:
                line = f"{source}, line {number}: {','.join(cells)}"
                raise InputError(f"{line}: expected bare name,full name of a clip")
            rows.append(Names(bare, published, named))
    for machine, rows in lists.items():
        check_distinct(rows, f"{source}: {machine}")
    return lists


def check_distinct(rows: list[Names], source: str) -> None:
    """InputError where two clips of a list have a name in common, attributes that are hidden
    apart."""
    names = Counter(name for row in rows for name in row.all)
    names.update(without_attribute(row.named) for row in rows if row.hides_attribute)
    if twice := [name for name, count in names.items() if count > 1]:
        raise InputError(f"{source}: {twice[0]} occurs twice")


def audio_files(machine: Path) -> dict[str, Path]:
    """Name -> file of the test clips of a machine's folder; 2021 has two folders of them."""
    folders = [machine / name for name in SPLIT_FOLDERS["test"] if (machine / name).is_dir()]
    if not folders:
        raise InputError(
            f"{machine / 'test'}: no such folder (--machines selects those that exist)"
        )
    files: dict[str, Path] = {}
    for folder in folders:
        for path in folder.iterdir():
            if path.name.lower().endswith(AUDIO_SUFFIXES) and not path.name.startswith("."):
                if path.name in files:
                    raise InputError(f"{path}: {files[path.name]} exists too; nothing was renamed")
                files[path.name] = path
    return files


def present_files(
    machine: Path, rows: list[Names], other_sections: Collection[str]
) -> dict[Names, Path]:
    """The file that each clip of the list is now; InputError unless these are the test clips of the
    folder, each once.

    other_sections: of clips that may lie there too. A name that the list gives without its
    attribute may have the true one, as the authors' code names clips of AirCompressor,
    HoveringDrone and ToothBrush of 2024.
    """
    files = audio_files(machine)
    present = {name for name in files if section_of(name) not in other_sections}
    by_stem: dict[str | None, set[str]] = {}
    for name in present:
        by_stem.setdefault(without_attribute(name), set()).add(name)
    found = {}
    for row in rows:
        others = by_stem.get(without_attribute(row.named), set()) if row.hides_attribute else set()
        found[row] = sorted(row.all & present | others)
    missing = [row for row, names in found.items() if not names]
    extra = sorted(present.difference(*found.values()))
    twice = [names for names in found.values() if len(names) > 1]
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(rows)} clips are missing ({missing[0].bare})")
    if extra:
        problems.append(f"{len(extra)} files have names that are not in the list ({extra[0]})")
    if twice:
        problems.append(f"a clip exists under two names ({' and '.join(twice[0])})")
    if problems:
        raise InputError(f"{machine / 'test'}: {'; '.join(problems)}; nothing was renamed")
    return {row: files[names[0]] for row, names in found.items()}


@dataclass
class Renaming:
    """The test clips of one machine: what they are called now and what they are to be called."""

    machine: str
    journal: Path
    present: dict[Names, Path]  # now
    undo: bool = False

    def wanted(self, names: Names) -> str:
        return names.bare if self.undo else names.named

    @property
    def steps(self) -> list[tuple[Path, Path]]:
        wanted = [(now, now.with_name(self.wanted(names))) for names, now in self.present.items()]
        return [(now, then) for now, then in wanted if now != then]

    def write_journal(self) -> None:
        if not self.journal.is_file():
            write_journal(self.journal, self.present)

    def run(self) -> None:
        """Journal first; undone clips are forgotten last."""
        self.write_journal()
        for now, wanted in self.steps:
            now.rename(wanted)
        if self.undo:
            self.journal.unlink()


def plan(
    folder: Path,
    journal: Path,
    rows: list[Names] | None,
    undo: bool = False,
    other_sections: Collection[str] = (),
) -> Renaming:
    """Look at one machine and change nothing; InputError where list, journal and folder do not
    agree.

    folder: raw/<machine>; rows: the official list, None: what the journal says; other_sections: of
    clips that may lie there too.
    """
    recorded = read_journal(journal) if journal.is_file() else None
    if recorded is not None:
        kept = {(names.bare, names.named) for names in recorded}
        if rows is not None and kept != {(row.bare, row.named) for row in rows}:
            raise InputError(
                f"{journal}: this journal is of another list; --undo first; nothing was renamed"
            )
        rows = rows or list(recorded)
    if rows is None:
        raise InputError(
            f"{journal}: no such journal, so there is nothing to undo for {folder.name}"
        )
    present = present_files(folder, rows, other_sections)
    if recorded is not None:
        sizes = {names.bare: size for names, size in recorded.items()}
        for names, path in present.items():
            if (found := path.stat().st_size) != sizes[names.bare]:
                raise InputError(
                    f"{path}: {found} bytes, but {journal} recorded {sizes[names.bare]}: "
                    "another file has this name now; nothing was renamed"
                )
    return Renaming(folder.name, journal, present, undo)


def write_journal(journal: Path, present: dict[Names, Path]) -> None:
    lines = [[n.bare, n.published, n.named, str(now.stat().st_size)] for n, now in present.items()]
    write_text(journal, "".join(",".join(line) + "\n" for line in [JOURNAL_COLUMNS, *lines]))


def read_journal(journal: Path) -> dict[Names, int]:
    """Names of a clip -> its size in bytes."""
    head, *lines = [
        line.split(",") for line in journal.read_text(encoding="utf-8").splitlines()
    ] or [[]]
    rows = {
        Names(*line[:3]): int(line[3]) for line in lines if len(line) == 4 and line[3].isdigit()
    }
    if (
        head != JOURNAL_COLUMNS
        or not lines
        or len(rows) < len(lines)
        or any(not is_bare(n.bare) or named_by(n.published) != n.named for n in rows)
    ):
        raise InputError(
            f"{journal}: damaged, not a journal of renamed clips ({','.join(JOURNAL_COLUMNS)})"
        )
    check_distinct(list(rows), str(journal))
    return rows

"""Which clips a run is made of, so that a changed data folder is not taken for the same one.

`all/contents.json` has the folder of the data, and of each machine and split the number of clips
and two hashes: of their names with what these say, and of their contents.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from unlabeledasd.audio.clip_names import UNKNOWN
from unlabeledasd.errors import InputError
from unlabeledasd.files import write_json
from unlabeledasd.runs.folder import Run

BLOCK = 4096  # bytes at the start, in the middle and at the end of a file that are compared


@dataclass(frozen=True)
class Contents:
    """Of the clips of one machine and split."""

    clips: int
    unknown: int  # whose condition their names do not say
    names: str
    contents: str


def contents_of(root: str | Path, table: pd.DataFrame) -> dict[str, Contents]:
    """`<machine>/<split>` -> its Contents; table: clips below `root`, of clips.index_clips.

    Two files count as equal whose size and blocks at the start, in the middle and at the end are.
    """
    columns = ["path", "section", "domain", "condition", "attribute"]
    found = {}
    for (machine, split), clips in table.groupby(["machine", "split"], sort=False):
        rows = clips[columns].itertuples(index=False)
        names = sorted("\t".join(row).encode(errors="surrogateescape") for row in rows)
        blocks = sorted(sampled(Path(root, path)) for path in clips.path)
        unknown = int((clips.condition == UNKNOWN).sum())
        found[f"{machine}/{split}"] = Contents(len(clips), unknown, digest(names), digest(blocks))
    return found


def sampled(path: Path) -> bytes:
    """A hash of a file's size and of three blocks of it."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        parts = [str(size).encode()]
        for start in (0, size // 2, max(size - BLOCK, 0)):
            file.seek(start)
            parts.append(file.read(BLOCK))
    return hashlib.sha256(b"\0".join(parts)).digest()


def digest(parts: list[bytes]) -> str:
    return hashlib.sha256(b"\n".join(parts)).hexdigest()


def keep_contents(run: Run, root: str | Path, table: pd.DataFrame) -> None:
    """Write down which clips the run is made of; InputError where it began with other clips."""
    require_same(run, root, table)
    folders = {folder: asdict(made) for folder, made in contents_of(root, table).items()}
    write_json(run.contents, {"root": str(Path(root).resolve()), "folders": folders})


def require_same(run: Run, root: str | Path, table: pd.DataFrame) -> None:
    """InputError says how the clips differ from those that the run is made of, if it keeps that.

    Clips of splits that the run does not use may differ. Test clips whose ground truth came into
    their names later are the same clips.
    """
    if not run.contents.is_file():
        return
    before = read_contents(run)
    splits = {folder.rpartition("/")[2] for folder in before}
    now = contents_of(root, table[table.split.isin(splits)])
    changed = [
        folder
        for folder in dict.fromkeys([*before, *now])
        if folder not in before or folder not in now or differs(before[folder], now[folder])
    ]
    if not changed:
        return
    parts = [describe(folder, before, now) for folder in changed[:3]]
    if len(changed) > 3:
        parts.append(f"and {len(changed) - 3} more folders")
    total, old = (sum(folder.clips for folder in folders.values()) for folders in (now, before))
    remedies = "(use overwrite=true to retrain, or run_dir=FOLDER to keep both)"
    if all(folder.endswith("/test") for folder in changed):
        remedies += f"; or score them by python src/infer.py run={run.folder} name=NAME"
        remedies += " embeddings=new"
    raise InputError(
        f"{root}: clips changed: {total} now, {old} when {run.folder} began; "
        f"{', '.join(parts)} {remedies}"
    )


def differs(before: Contents, now: Contents) -> bool:
    named_later = before.unknown and not now.unknown
    return (before.clips, before.contents) != (now.clips, now.contents) or (
        before.names != now.names and not named_later
    )


def describe(folder: str, before: dict[str, Contents], now: dict[str, Contents]) -> str:
    """As "fan/train 7 now, 6 before", or that names or contents differ."""
    counts = [folders[folder].clips if folder in folders else 0 for folders in (now, before)]
    if counts[0] != counts[1]:
        return f"{folder} {counts[0]} now, {counts[1]} before"
    return f"{folder} {counts[0]} with other names or contents"


def read_contents(run: Run) -> dict[str, Contents]:
    try:
        folders = json.loads(run.contents.read_text(encoding="utf-8"))["folders"]
        return {folder: Contents(**contents) for folder, contents in folders.items()}
    except (ValueError, TypeError, LookupError, AttributeError):
        raise InputError(f"{run.contents}: corrupt; retrain with overwrite=true") from None

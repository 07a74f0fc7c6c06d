"""The sorted table of all clips of a dataset."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import pandas as pd

from unlabeledasd.audio.clip_names import (
    GRAMMARS,
    SPLIT_FOLDERS,
    SPLITS,
    UNKNOWN,
    composed,
    parse_clip,
    unit_name,
)
from unlabeledasd.audio.folders import Found, LeftOut, walk, why_left_out
from unlabeledasd.errors import InputError

AUDIO_SUFFIXES = (".wav", ".flac")
CALIBRATION = "calibration"  # the split of training clips that a run has set aside


def discover_machines(root: Path, left_out: LeftOut | None = None) -> list[str]:
    """Names of the machine folders below `root`, sorted; left_out: gets what else lies there."""
    names = []
    for path in sorted(root.iterdir()):
        kind = why_left_out(path.name)
        if path.is_dir() and not kind:
            names.append(path.name)
        elif left_out is not None:
            left_out.add(kind or "in no machine's folder", path.name)
    same = Counter(map(composed, names))
    if twice := [name for name in names if same[composed(name)] > 1]:
        raise InputError(
            f"{root}: two folders {twice[0]}, which differ in their Unicode form alone"
        )
    return names


def machine_folder(root: Path, machine: str) -> str:
    """The name on disk of a machine's folder below `root`, whatever its Unicode form."""
    if machine.isascii() or (root / machine).is_dir():
        return machine
    names = [path.name for path in root.iterdir() if composed(path.name) == composed(machine)]
    return names[0] if names else machine


def split_folders(root: Path, machine: str, split: str, grammar: str) -> list[str]:
    """The existing folders of a split, relative to `root`.

    One, but of 2021 also those that divide the test clips by domain.
    """
    names = SPLIT_FOLDERS[split] if grammar == "dcase2021" else (split,)
    return [f"{machine}/{name}" for name in names if (root / machine / name).is_dir()]


def refuse_twice(root: Path, paths: Iterable[str]) -> None:
    """InputError where two folders of a split contain the same clip."""
    places: dict[str, str] = {}
    for path in paths:
        if (other := places.setdefault(path.rpartition("/")[2], path)) != path:
            raise InputError(f"{root / path}: {root / other} is the same clip; remove one of them")


def find_clips(root: Path, folder: str, grammar: str) -> Found:
    """The clips in a split's folder, `folder` relative to `root`, and what is left out there.

    Subfolders belong to it where names are free.
    """
    found = walk(root / folder, AUDIO_SUFFIXES, deep=grammar == "free")
    found.files = [f"{folder}/{path}" for path in found.files]
    return found


def index_clips(
    root: str | Path,
    machines: list[str] | None = None,
    grammar: str = "dcase",
    required: tuple[str, ...] = SPLITS,
    notes: list[str] | None = None,
    sections: Mapping[str, Collection[str]] | None = None,
) -> pd.DataFrame:
    """The table of all clips of `machines`, in their order; None: of all folders below `root`.

    Columns: path (relative to root, with /), machine, split, section, domain, condition, attribute;
    by split, folder and path within a machine, so that nothing depends on the file system. A
    machine with several sections becomes one machine per section, `<machine>_section_<NN>`.
    sections: machine -> the sections of it that are taken, all of which must have clips; machines
    without: what is there. notes: gets one line on what lies there and is left out.
    Raises InputError for a missing folder of the `required` splits, an empty one, one that cannot
    be read, or a name that does not follow the grammar.
    """
    root = Path(root)
    if grammar not in GRAMMARS:
        raise InputError(f"grammar={grammar!r}: allowed are {', '.join(GRAMMARS)}")
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder; data_dir must hold <dataset>/all/raw/<machine>/{{train,test}}"
        )
    left_out = LeftOut()
    if not (machines := discover_machines(root, left_out) if machines is None else list(machines)):
        raise InputError(
            f"{root}: no machine folder in it; expected <machine>/{{train,test}}/*.wav"
        )
    rows: list[tuple] = []
    sections = sections or {}
    for machine in machines:
        place = machine_folder(root, machine)
        for split in SPLITS:
            folders = split_folders(root, place, split, grammar)
            if not folders and split in required:
                raise InputError(
                    f"{root / place / split}: no such folder; "
                    f"every machine needs {' and '.join(required)}"
                )
            taken = len(rows)
            for folder in folders:
                found = find_clips(root, folder, grammar)
                left_out.merge(found.left_out, f"{folder}/")
                if found.unreadable:
                    raise found.unreadable[0]
                if not found.files:
                    others = f"; left out: {found.left_out}" if found.left_out.counts else ""
                    suffixes = " or ".join(AUDIO_SUFFIXES)
                    raise InputError(f"{root / folder}: no {suffixes} file in it{others}")
                for path in found.files:
                    c = parse_clip(path, grammar)
                    if c.section in sections.get(machine, (c.section,)):
                        stated = (c.section, c.domain, c.condition, c.attribute)
                        rows.append((path, composed(machine), split, *stated))
                    else:
                        left_out.add("of other sections", path)
            refuse_twice(root, (row[0] for row in rows[taken:] if grammar == "dcase2021"))
    if notes is not None and left_out.counts:
        notes.append(f"note: {root}: left out: {left_out}")
    columns = ["path", "machine", "split", "section", "domain", "condition", "attribute"]
    table = pd.DataFrame(rows, columns=columns)
    if len(bad := table[(table.split == "train") & (table.condition != "normal")]):
        raise InputError(
            f"{root / bad.path.iloc[0]}: an anomalous clip in train/; training clips are normal"
        )
    several = table.groupby("machine").section.transform("nunique") > 1
    several |= table.machine.isin(sections)
    pairs = zip(table.machine[several], table.section[several], strict=True)
    table.loc[several, "machine"] = [unit_name(*pair) for pair in pairs]
    wanted = {unit_name(machine, n) for machine, own in sections.items() for n in own}
    for split in required:
        if lacking := (wanted | set(table.machine)) - set(table.machine[table.split == split]):
            needed = " and ".join(required)
            raise InputError(
                f"{root}: {min(lacking)} has no clip in {split}/; every section needs {needed}"
            )
    return table


def summary(table: pd.DataFrame) -> str:
    """Clips per machine, split, domain and condition, as text."""
    kind = (
        table.split + " " + table.domain + (" " + table.condition).where(table.split == "test", "")
    )
    counts = pd.crosstab(table.machine, kind)[
        sorted(kind.unique(), key=lambda k: (k.split()[0] == "test", k))
    ]
    counts.columns = [column.replace(UNKNOWN, "?") for column in counts]
    return counts.loc[table.machine.unique()].rename_axis(None).to_string()


def training_notes(table: pd.DataFrame, n_clusters: int = 0) -> list[str]:
    """What is unusual about machines' training clips, where scoring has `n_clusters` centres."""
    training = table[table.split == "train"]
    source, target = (
        training[training.domain == domain]
        .groupby("machine")
        .size()
        .reindex(table.machine.unique(), fill_value=0)
        for domain in ("source", "target")
    )
    found = {
        "no source training clips: scores are distances to the target clips": source == 0,
        "no target training clips: scores are distances to the centres of the source clips": target
        == 0,
        f"fewer source training clips than n_clusters={n_clusters}: each is its own centre": (
            source > 0
        )
        & (source < n_clusters),
    }
    return [
        f"note: {', '.join(rows.index[rows])}: {text}" for text, rows in found.items() if rows.any()
    ]

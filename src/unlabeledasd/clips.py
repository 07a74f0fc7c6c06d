"""Clip names of DCASE Challenge Task 2, and the sorted table of all clips of a dataset.

Grammar: `section_<NN>_<source|target>_<train|test>_<normal|anomaly>_<index>_<attributes>.wav`;
official evaluation test clips are bare, `section_<NN>_<index>.wav`, until ground truth is added.
"""

import re
from dataclasses import dataclass
from glob import iglob
from pathlib import Path, PurePosixPath

import pandas as pd

from unlabeledasd.clip_names import (
    UNKNOWN,
    read_condition,
    stated_condition,
    without_copy_suffix,
)
from unlabeledasd.errors import InputError

SPLITS = ("train", "test")
AUDIO_SUFFIXES = (".wav", ".flac")
NO_ATTRIBUTE = "noAttribute"
GRAMMARS = ("dcase", "free")

FULL_NAME = re.compile(
    r"section_(?P<section>\d{2})_(?P<domain>source|target)_(?P<split>train|test)"
    r"_(?P<condition>normal|anomaly)_(?P<index>\d+)(?:_(?P<attribute>.+))?"
)
BARE_NAME = re.compile(r"section_(?P<section>\d{2})_(?P<index>\d+)")


@dataclass(frozen=True)
class Clip:
    """What the place and the name of a clip tell about it."""

    machine: str
    section: str
    domain: str  # source, target or unknown
    split: str  # train or test
    condition: str  # normal, anomaly or unknown
    attribute: (
        str  # everything after the index, e.g. "vel_1000_loc_A"; noAttribute where it is hidden
    )
    index: str = ""

    @property
    def name(self) -> str:
        """The official file name, without suffix; bare where the ground truth is unknown."""
        if self.condition == UNKNOWN:
            return f"section_{self.section}_{self.index}"
        head = f"section_{self.section}_{self.domain}_{self.split}_{self.condition}_{self.index}"
        return f"{head}_{self.attribute}"


def parse_clip(path: str | Path, grammar: str = "dcase") -> Clip:
    """Read `<machine>/<split>/<name>`, relative to the data root or absolute, as a Clip.

    Folders between the split and the name may state the condition (test/anomaly/), and must agree
    with the name. What a file manager adds to the name of a copy, " (1)", is no part of it.
    grammar "dcase" refuses other names than the challenge's. Grammar "free" takes any name: a clip
    in train/ is normal, unless its folders or name state an anomaly; a clip in test/ has the
    condition that they state, or an unknown one (clip_names.stated_condition). Both are of the
    source domain. InputError names the path.
    """
    path = PurePosixPath(path)
    machine, split, folders = place(path)
    stem = without_copy_suffix(path.stem)
    if match := FULL_NAME.fullmatch(stem):
        if match["split"] != split:
            raise InputError(f"{path}: the name says {match['split']}, the folder says {split}")
        condition = read_condition(path, machine, folders, match["condition"])
        domain, attribute = match["domain"], match["attribute"] or NO_ATTRIBUTE
        return Clip(machine, match["section"], domain, split, condition, attribute, match["index"])
    if split == "test" and not folders and (match := BARE_NAME.fullmatch(stem)):
        return Clip(machine, match["section"], UNKNOWN, split, UNKNOWN, UNKNOWN, match["index"])
    if grammar == "dcase":
        raise InputError(
            f"{path}: not a DCASE clip name, section_<NN>_<source|target>_{split}_<normal|anomaly>"
            "_<index>_<attributes>.wav (own recordings with other names: dataset=folder)"
        )
    condition = read_condition(path, machine, folders, stem)
    if split == "train" and condition == UNKNOWN:
        condition = "normal"
    return Clip(machine, "00", "source", split, condition, NO_ATTRIBUTE, stem)


def place(path: PurePosixPath) -> tuple[str, str, tuple[str, ...]]:
    """-> machine, split, and the folders below the split in which a clip lies.

    Of several folders train or test in a relative path the first one is the split; in an absolute
    path, which may have such folders above the machine's, the last one that lies in no other.
    """
    folders = path.parts[:-1]
    splits = [i for i in range(1, len(folders)) if folders[i] in SPLITS]
    if not splits:
        raise InputError(f"{path}: a clip lies in <machine>/train/ or <machine>/test/")
    if path.is_absolute():
        splits = [i for i in splits if folders[i - 1] not in SPLITS][-1:] or splits
    i = splits[0]
    return folders[i - 1], folders[i], folders[i + 1 :]


def discover_machines(root: Path) -> list[str]:
    """Names of the machine folders below `root`, sorted."""
    return sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def index_clips(
    root: str | Path,
    machines: list[str] | None = None,
    grammar: str = "dcase",
    required: tuple[str, ...] = SPLITS,
) -> pd.DataFrame:
    """The table of all clips of `machines` (all folders below `root` if None), machines in the order given.

    Columns: path (relative to root, with /), machine, split, section, domain, condition, attribute; sorted by
    path within a machine, so that nothing depends on the file system. A machine with several sections becomes
    one machine per section, `<machine>_section_<NN>`.
    Raises InputError for a missing folder of the `required` splits, an empty one, or a name that breaks the
    grammar.
    """
    root = Path(root)
    if grammar not in GRAMMARS:
        raise InputError(f"grammar={grammar!r}: allowed are {', '.join(GRAMMARS)}")
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder; data_dir must hold <dataset>/all/raw/<machine>/{{train,test}}"
        )
    if not (machines := discover_machines(root) if machines is None else list(machines)):
        raise InputError(
            f"{root}: no machine folder in it; expected <machine>/{{train,test}}/*.wav"
        )
    rows = []
    for machine in machines:
        for split in SPLITS:
            folder = root / machine / split
            if not folder.is_dir():
                if split not in required:
                    continue
                raise InputError(
                    f"{folder}: no such folder; every machine needs {' and '.join(required)}"
                )
            pattern = "**/*" if grammar == "free" else "*"
            # Path.glob would not follow links to folders
            found = iglob(pattern, root_dir=folder, recursive=True)  # noqa: PTH207
            names = [Path(name).as_posix() for name in found]
            paths = sorted(
                f"{machine}/{split}/{name}"
                for name in names
                if name.lower().endswith(AUDIO_SUFFIXES)
            )
            if not paths:
                raise InputError(f"{folder}: no {' or '.join(AUDIO_SUFFIXES)} file in it")
            clips = [parse_clip(path, grammar) for path in paths]
            rows += [
                (path, machine, split, clip.section, clip.domain, clip.condition, clip.attribute)
                for path, clip in zip(paths, clips, strict=True)
            ]
    columns = ["path", "machine", "split", "section", "domain", "condition", "attribute"]
    table = pd.DataFrame(rows, columns=columns)
    if len(bad := table[(table.split == "train") & (table.condition != "normal")]):
        raise InputError(
            f"{root / bad.path.iloc[0]}: an anomalous clip in train/; training clips are normal"
        )
    several = table.groupby("machine").section.transform("nunique") > 1
    table.loc[several, "machine"] += "_section_" + table.section[several]
    for split in required:
        if lacking := set(table.machine) - set(table.machine[table.split == split]):
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


def name_notes(table: pd.DataFrame) -> list[str]:
    """Lines on what the names of clips do not say, or say in a way that is not understood."""
    found: dict[str, list[str]] = {}
    for row in table.itertuples():
        _, _, folders = place(PurePosixPath(row.path))
        stem = PurePosixPath(row.path).stem
        name = without_copy_suffix(stem)
        in_form = FULL_NAME.fullmatch(name) or BARE_NAME.fullmatch(name)
        stated = [stated_condition(text, row.machine) for text in (*folders, name)]
        kinds = {
            "named like a copy; the suffix is no part of the attribute": stem != name,
            "its name begins like a DCASE name, but does not follow the form; taken as of the "
            "source domain, without attribute": name.lower().startswith("section_") and not in_form,
            "neither its folder nor its name states normal or anomaly clearly; it gets a score, but"
            " no metrics (test/normal/ and test/anomaly/ state it)": row.split == "test"
            and row.condition == UNKNOWN
            and not in_form,
            "its folder or name does not state a condition clearly; used as a normal training clip": row.split
            == "train"
            and UNKNOWN in stated
            and not in_form,
        }
        for text in (text for text, applies in kinds.items() if applies):
            found.setdefault(text, []).append(row.path)
    return [
        f"note: {paths[0]}: {text}" + (f" ({len(paths)} such clips)" if len(paths) > 1 else "")
        for text, paths in found.items()
    ]


def training_notes(table: pd.DataFrame, n_clusters: int = 0) -> list[str]:
    """What is unusual about machines' training clips, and what scoring with `n_clusters` centres makes of it."""
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

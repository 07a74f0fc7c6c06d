"""The file of pseudo-labels of one source, and the training labels made from it."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from unlabeledasd.audio.clip_names import NO_ATTRIBUTE, UNKNOWN, folder_of, parse_clip
from unlabeledasd.errors import InputError
from unlabeledasd.files import file_hash, write_json
from unlabeledasd.labels import Labels, class_names


@dataclass(frozen=True)
class PseudoLabels:
    """The file labels.json of one source of pseudo-labels for one dataset.

    settings: how the clusters were made; recordings: machine -> fingerprint of its training clips;
    clips: path -> name of its class.
    """

    dataset: str
    source: str  # class_1: the source, and the seed where it has one
    settings: dict
    recordings: dict[str, str]
    clips: dict[str, str]

    def save(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "PseudoLabels":
        try:
            labels = cls(**json.loads(path.read_text(encoding="utf-8")))
            wrong = [path for path, name in labels.clips.items() if not isinstance(name, str)]
            if wrong:
                raise ValueError(f"the class of {wrong[0]} is no text")
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: not a file of pseudo-labels ({error})") from None
        return labels


def source_name(source: str, seed: int | None) -> str:
    return source if seed is None else f"{source}_{seed}"


def labels_from_file(
    table: pd.DataFrame,
    root: str | Path,
    dataset: str,
    folder: str | Path,
    source: str,
    seed: int | None = None,
    hide: Sequence[str] | str = (),
    command: str = "pseudoattr/pseudo_attr.sh",
) -> Labels:
    """Pseudo-labels for the machines without attributes; machine-domain-attribute for the others.

    The file `folder`/<source>[_<seed>]/labels.json must be of this dataset and source, and of
    exactly these recordings in `root`. hide: machines that are taken as unlabeled although their
    file names have attributes, or "all"; command: makes the file.
    """
    name = source_name(source, seed)
    file = Path(folder) / name / "labels.json"
    if not file.is_file():
        raise InputError(f"{file}: no such pseudo-labels; they are made by: {command}")
    pseudo = PseudoLabels.load(file)
    if (pseudo.dataset, pseudo.source) != (dataset, name):
        found = f"says it is of {pseudo.source}, dataset {pseudo.dataset}"
        raise InputError(f"{file}: {found}; wanted {name}, {dataset}")
    training = table[table.split == "train"]
    unlabeled = training[training.machine.isin(unlabeled_machines(training, hide))]
    for complaint in misfits(pseudo, unlabeled, root):
        raise InputError(f"{file}: {complaint}; make it again: {command}")
    paths = training.path.tolist()
    known = zip(training.machine, training.domain, training.attribute, strict=True)
    names = class_names(
        (pseudo.clips[path],) if path in pseudo.clips else parts
        for path, parts in zip(paths, known, strict=True)
    )
    made_from = {"file": str(file), "sha256": file_hash(file)}
    return Labels.from_names(paths, names, made_from)


def misfits(pseudo: PseudoLabels, unlabeled: pd.DataFrame, root: str | Path) -> Iterator[str]:
    """Why these labels are not of the training clips of the unlabeled machines."""
    machines, paths = set(unlabeled.machine), set(unlabeled.path)
    for machine in sorted(machines - set(pseudo.recordings)):
        yield f"has no labels of {machine}"
    for machine in sorted(set(pseudo.recordings) - machines):
        yield f"labels {machine}, which is no unlabeled machine here"
    if lacking := paths - set(pseudo.clips):
        yield f"has no label of {min(lacking)} ({len(lacking)} such clips)"
    if strange := set(pseudo.clips) - paths:
        yield f"labels {min(strange)}, which is no training clip here ({len(strange)} such clips)"
    for machine, clips in unlabeled.groupby("machine").path:
        if fingerprint(root, clips) != pseudo.recordings[machine]:
            yield f"was made from other recordings of {machine}, of equal names"


def unlabeled_machines(table: pd.DataFrame, hide: Sequence[str] | str = ()) -> list[str]:
    """Machines without attributes in the names of their training clips, and those to `hide`.

    The folder of several sections stands for all of them in `hide`.
    """
    folders = {machine: folder_of(machine) for machine in table.machine.unique().tolist()}
    machines = list(folders)
    hide = machines if hide == "all" else hide
    if unknown := sorted(set(hide) - {*machines, *folders.values()}):
        known = ", ".join(machines)
        raise InputError(f"dataset.hide: no machine {unknown[0]}; the machines are {known}, or all")
    labeled = set(table.machine[(table.split == "train") & (table.attribute != NO_ATTRIBUTE)])
    return [m for m in machines if m in hide or folders[m] in hide or m not in labeled]


def true_attributes(table: pd.DataFrame, folder: str | Path) -> pd.Series:
    """Attribute of every clip in `table`, "unknown" where it is not known.

    From its name, or where the name hides it from the official lists
    `folder`/<machine>/attributes_<section>_<split>_correspondence.csv.
    """
    known = {}
    hidden_paths = table.path[table.attribute == NO_ATTRIBUTE]
    for place in sorted({path.rpartition("/")[0] for path in hidden_paths}):
        machine, split = place.split("/")[:2]
        for file in sorted(Path(folder, machine).glob(f"attributes_*_{split}_correspondence.csv")):
            names = pd.read_csv(file)
            if not {"source_file_name", "target_file_name"} <= set(names):
                raise InputError(f"{file}: expected the columns source_file_name, target_file_name")
            for true, hidden in zip(names.source_file_name, names.target_file_name, strict=True):
                # the index of the true name is not always that of the clip
                known[f"{place}/{hidden}"] = parse_clip(f"{machine}/{split}/{true}").attribute
    pairs = zip(table.path, table.attribute, strict=True)
    found = [known.get(p, UNKNOWN) if a == NO_ATTRIBUTE else a for p, a in pairs]
    return pd.Series(found, table.index)


def fingerprint(root: str | Path, paths: Sequence[str]) -> str:
    """SHA-256 of names, sizes and 4 kB from the middle of each clip.

    It differs for other recordings of equal names.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        with Path(root, path).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(size // 2)
            digest.update(f"{path} {size} ".encode() + file.read(4096))
    return digest.hexdigest()

"""Class labels of the training clips, stored as JSON: relative path -> index of a class."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from unlabeledasd.errors import InputError
from unlabeledasd.files import write_json

FIELDS = ("machine", "attribute", "domain", "section")


@dataclass(frozen=True)
class Labels:
    """classes: sorted names; clips: path relative to the data root -> index into `classes`.

    made_from: the file of pseudo-labels that was used, with its SHA-256.
    """

    classes: list[str]
    clips: dict[str, int]
    made_from: dict[str, str] | None = field(default=None, compare=False)

    @classmethod
    def from_names(
        cls, paths: list[str], names: list[str], made_from: dict[str, str] | None = None
    ) -> "Labels":
        classes = sorted(set(names))
        index = {name: i for i, name in enumerate(classes)}
        clips = {path: index[name] for path, name in zip(paths, names, strict=True)}
        return cls(classes, clips, made_from)

    def of(self, paths: list[str]) -> np.ndarray:
        """Class indices (N,) of clips, InputError for one without a label."""
        if missing := [path for path in paths if path not in self.clips]:
            count = f"{len(missing)} of {len(paths)} have none"
            raise InputError(f"{missing[0]}: no label for this clip ({count})")
        return np.array([self.clips[path] for path in paths])

    def save(self, path: Path) -> None:
        write_json(path, {key: value for key, value in asdict(self).items() if value is not None})

    @classmethod
    def load(cls, path: Path) -> "Labels":
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: not the labels of a run ({error})") from None


def labels_from_fields(table: pd.DataFrame, fields: Sequence[str]) -> Labels:
    """Classes of the training clips in `table`: a class for each combination of `fields`.

    [machine, attribute, domain] are the classes of experiments 1 and 2, [machine, domain] those of
    the row without attributes in experiment 3. The order of the fields is part of the method:
    classes are numbered in the order of their names, and so get their frozen centres.
    """
    if not fields or not set(fields) <= set(FIELDS):
        allowed = ", ".join(FIELDS)
        raise InputError(f"fields={list(fields)}: allowed are {allowed}, at least one")
    training = table[table.split == "train"]
    names = class_names(zip(*(training[field] for field in fields), strict=True))
    return Labels.from_names(training.path.tolist(), names)


def class_names(classes: Iterable[tuple[str, ...]]) -> list[str]:
    """The name of each class, its parts joined by "-"; equal names only for equal parts.

    Where two classes would have one name, as ("pump", "A-1") and ("pump-A", "1") would, the parts
    of all names are percent-encoded: pump-A%2D1 and pump%2DA-1.
    """
    parts = list(classes)
    names = ["-".join(each) for each in parts]
    if len(set(names)) == len(set(parts)):
        return names
    encoded = [[part.replace("%", "%25").replace("-", "%2D") for part in each] for each in parts]
    return ["-".join(each) for each in encoded]

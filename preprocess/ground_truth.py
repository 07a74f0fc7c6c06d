"""The official lists of test clips and the true attributes of machines that hide them: given, kept, or fetched."""

import os
from functools import cache
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from fetching import fetch_bytes
from unlabeledasd.errors import InputError

PUBLISHED = Path(__file__).with_name("ground_truth.yaml")


@cache  # not to be changed
def published(file: Path) -> dict:
    return OmegaConf.to_container(OmegaConf.load(file))


def checksums() -> dict[str, str]:
    """Path at the publisher -> SHA-256."""
    return published(PUBLISHED)["sha256"]


def fetch(path: str) -> bytes:
    source = published(PUBLISHED)
    base = os.environ.get("GROUND_TRUTH_URL", source["publisher"]).rstrip("/")
    return fetch_bytes(f"{base}/{source['revision']}/{path}", source["sha256"][path])


def list_name(dataset: DictConfig) -> str:
    return f"eval_data_list_{dataset.name.removeprefix('dcase')}.csv"


def is_published(dataset: DictConfig) -> bool:
    return f"datasets/{list_name(dataset)}" in checksums()


def get_list(dataset: DictConfig, kept: Path, given: Path | None) -> tuple[bytes, str]:
    """Content of a dataset's list, and where it is from.

    given: the folder of --ground-truth, and then nothing else is asked; kept: where an earlier call left it.
    """
    file = (given or kept) / list_name(dataset)
    if file.is_file():
        return file.read_bytes(), str(file)
    if given:
        raise InputError(f"{file}: no such file; --ground-truth names the folder that holds it")
    if not is_published(dataset):
        name = list_name(dataset)
        raise InputError(
            f"{dataset.name}: no published ground truth is known; --ground-truth DIR reads DIR/{name}"
        )
    path = f"datasets/{list_name(dataset)}"
    return fetch(path), path


def attribute_file(machine: str, split: str) -> Path:
    """Below <data_dir>/<dataset>/ground_truth/: columns name with the true attributes, official name."""
    return Path(machine, f"attributes_00_{split}_correspondence.csv")


def get_attributes(
    dataset: DictConfig, machines: list[str], kept: Path, given: Path | None
) -> dict[Path, bytes]:
    """Files with the true attributes of those of `machines` that hide them, without what is kept already."""
    files = {}
    known = checksums()
    for machine in [machine for machine in dataset.unlabeled if machine in machines]:
        group = "dev_data" if machine in dataset.machines.development else "eval_data"
        for name in (attribute_file(machine, split) for split in ("train", "test")):
            path = f"ground_truth_attributes/{dataset.name}t2/{group}/{name.as_posix()}"
            if given:
                for file in (given / path, given / f"attributes_{dataset.name}" / group / name):
                    if file.is_file():
                        files[name] = file.read_bytes()
            elif f"datasets/{path}" in known and not (kept / name).is_file():
                files[name] = fetch(f"datasets/{path}")
    return files

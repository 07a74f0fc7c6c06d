"""The official lists of test clips and the true attributes of machines that hide them: given,
kept, or fetched."""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from fetching import Unreachable, fetch_bytes
from unlabeledasd.errors import InputError

PUBLISHED = Path(__file__).with_name("ground_truth.yaml")
ATTEMPTS = 2  # for what names can do without


@cache  # not to be changed
def published(file: Path) -> dict:
    return OmegaConf.to_container(OmegaConf.load(file))


def checksums() -> dict[str, str]:
    """Path at the publisher -> SHA-256."""
    return dict(flat_paths(published(PUBLISHED)["sha256"]))


def flat_paths(tree: dict, folder: str = "") -> Iterator[tuple[str, str]]:
    """{"a": {"b": value}} -> ("a/b", value)."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat_paths(value, f"{folder}{name}/")
        else:
            yield f"{folder}{name}", value


def address(path: str) -> str:
    source = published(PUBLISHED)
    base = os.environ.get("GROUND_TRUTH_URL", source["publisher"]).rstrip("/")
    return f"{base}/{source['revision']}/{path}"


def list_name(dataset: DictConfig) -> str:
    return f"eval_data_list_{dataset.name.removeprefix('dcase')}.csv"


def is_published(dataset: DictConfig) -> bool:
    return f"datasets/{list_name(dataset)}" in checksums()


def get_list(dataset: DictConfig, kept: list[Path], given: Path | None) -> tuple[bytes, str]:
    """Content of a dataset's list, and where it is from.

    given: the folder of --ground-truth, and then nothing else is asked; kept: folders where an
    earlier call left it, so that one success is enough for all later calls.
    """
    name = list_name(dataset)
    for folder in [given] if given else kept:
        if (folder / name).is_file():
            return (folder / name).read_bytes(), str(folder / name)
    if given:
        raise InputError(
            f"{given / name}: no such file; --ground-truth names the folder that has it"
        )
    path = f"datasets/{name}"
    if path not in checksums():
        raise InputError(
            f"{dataset.name}: no published ground truth is known; "
            f"--ground-truth DIR reads DIR/{name}"
        )
    try:
        return fetch_bytes(address(path), checksums()[path]), path
    except Unreachable as error:
        raise InputError(
            f"{error}; without a network: --ground-truth DIR reads DIR/{name}, for instance the "
            "folder datasets/ of a copy of the publisher's repository"
        ) from None


def attribute_file(machine: str, split: str) -> Path:
    """Below <data_dir>/<dataset>/ground_truth/: columns name with the true attributes, official
    name."""
    return Path(machine, f"attributes_00_{split}_correspondence.csv")


def get_attributes(
    dataset: DictConfig, machines: list[str], kept: list[Path], given: Path | None
) -> tuple[dict[Path, bytes], str]:
    """Files with the true attributes of those of `machines` that hide them, and why some are
    missing.

    Names of clips do without them, so a network that is missing is no error.
    """
    files, missing = {}, ""
    known = checksums()
    for machine in [machine for machine in dataset.unlabeled if machine in machines]:
        group = "dev_data" if machine in dataset.machines.development else "eval_data"
        for name in (attribute_file(machine, split) for split in ("train", "test")):
            path = f"ground_truth_attributes/{dataset.name}t2/{group}/{name.as_posix()}"
            places = (
                [given / path, given / f"attributes_{dataset.name}" / group / name] if given else []
            )
            found = [file for file in [*places, *(k / name for k in kept)] if file.is_file()]
            if found:
                files[name] = found[0].read_bytes()
            elif not given and not missing and f"datasets/{path}" in known:
                url, checksum = address(f"datasets/{path}"), known[f"datasets/{path}"]
                try:
                    files[name] = fetch_bytes(url, checksum, ATTEMPTS)
                except Unreachable as error:
                    missing = str(error)
    return files, missing

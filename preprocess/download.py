"""Fetch the official DCASE Task 2 archives from Zenodo and unpack them for the experiments.

  <data_dir>/<dataset>/all/raw/<machine>/{train,test}

A part of a machine that exists (a train or test folder with clips) is left alone, so a second call
does nothing, and one after an interruption resumes. Archives are verified against the record's
checksums before they are unpacked.
"""

import argparse
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from tqdm import tqdm

from fetching import fetch_bytes, fetch_file
from settings.datasets import (
    check_machines,
    dataset_names,
    expected_clips,
    load_dataset,
    raw_folder,
    sections,
    units,
)
from unlabeledasd.audio.clip_names import SPLIT_FOLDERS, section_of
from unlabeledasd.errors import InputError, one_line_errors
from unlabeledasd.runs.locks import locked
from unpacking import MERGING, is_audio, unpack

KINDS = {  # key of `records` and `archives` in the dataset's yaml: group of machines, folders in it
    "development": ("development", ("train", "test")),
    "evaluation_train": ("evaluation", ("train",)),
    "evaluation_test": ("evaluation", ("test",)),
}
OF_SPLIT = {"train": ("train_source", "train_target"), "test": ("test_normal", "test_anomaly")}
UNPACKED_RATIO = 1.35  # of zipped machine sound: 1.10 to 1.35, measured on MIMII and ToyADMOS clips


@dataclass
class Archive:
    """What one machine needs of one record; the record's own facts are filled in by `resolve`."""

    stem: str
    record: int
    folder: Path  # raw/<machine>
    cache: Path  # where archives lie until they are unpacked
    splits: tuple[str, ...]
    expected: dict[str, int | None]  # split: clips
    sections: list[str]  # of these alone; none: it has all clips of the machine
    name: str = ""
    url: str = ""
    size: int = 0
    checksum: str = ""

    def clips(self, split: str) -> int:
        folders = [self.folder / name for name in SPLIT_FOLDERS[split]]
        files = [file for folder in folders if folder.is_dir() for file in os.scandir(folder)]
        own = [f for f in files if not self.sections or section_of(f.name) in self.sections]
        return sum(is_audio(file.name) for file in own)

    @property
    def is_unpacked(self) -> bool:
        half = any(self.folder.glob(f"{MERGING}{self.stem}*"))
        return not half and all(self.clips(split) for split in self.splits)

    def problems(self) -> Iterator[str]:
        """Folders that contain clips, but not as many as they should."""
        for split in self.splits:
            found, expected = self.clips(split), self.expected[split]
            if found and expected and found != expected:
                own = f" of sections {', '.join(self.sections)}" if self.sections else ""
                counts = f"{found} clips{own}, expected {expected}"
                what = "them" if self.sections else "the folder"
                yield f"{self.folder / split}: {counts}; remove {what} to fetch it again"

    def begun(self) -> tuple[Path, Path]:
        """What an interrupted call, or --keep-archives, may have left."""
        return self.cache / self.name, self.cache / f"{self.name}.part"

    def resolve(self, files: dict[str, tuple[str, int, str]]) -> str | None:
        """Take address, size and checksum of the newest revision from the record; a problem.

        The second revision of dev_ToyCar.zip is dev_ToyCar_r2.zip.
        """
        pattern = re.compile(rf"{re.escape(self.stem)}(?:_r(\d+))?\.zip")
        revisions = {
            int(match[1] or 1): name for name in files if (match := pattern.fullmatch(name))
        }
        if not revisions:
            content = " ".join(sorted(files)) or "nothing"
            return f"record {self.record}: no {self.stem}.zip in it, only {content}"
        self.name = revisions[max(revisions)]
        self.url, self.size, self.checksum = files[self.name]
        return None


def wanted_archives(
    data_dir: Path, dataset: DictConfig, machines: list[str] | None
) -> list[Archive]:
    archives = []
    for kind, (group, splits) in KINDS.items():
        for machine in dataset.machines[group]:
            if machines and machine not in machines:
                continue
            every = [expected_clips(dataset, unit) for unit in units(dataset, group, [machine])]
            counts = {
                split: [clips[kind] for clips in every for kind in kinds]
                for split, kinds in OF_SPLIT.items()
            }
            archives.append(
                Archive(
                    dataset.archives[kind].format(machine),
                    dataset.records[kind],
                    raw_folder(data_dir, dataset) / machine,
                    data_dir / dataset.name / "archives",
                    splits,
                    {s: None if None in values else sum(values) for s, values in counts.items()},
                    sections(dataset, group, machine),
                )
            )
    return archives


def read_record(record: int) -> dict[str, tuple[str, int, str]]:
    """Name -> (address, size, checksum) of every file of a Zenodo record."""
    url = f"{os.environ.get('ZENODO_URL', 'https://zenodo.org').rstrip('/')}/api/records/{record}"
    content = fetch_bytes(url)
    try:
        files = json.loads(content)["files"]
        return {
            file["key"]: (file["links"]["self"], int(file["size"]), file["checksum"])
            for file in files
        }
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{url}: not the description of a Zenodo record") from None


def resolve(record: int, archives: list[Archive]) -> list[str]:
    """Ask the record for what it knows of its archives; problems."""
    try:
        files = read_record(record)
    except InputError as error:
        return [str(error)]
    return [problem for archive in archives if (problem := archive.resolve(files))]


def room(data_dir: Path, archives: list[Archive], keep: bool, jobs: int) -> tuple[str, bool]:
    """What will be fetched and about how much space it takes, in words; whether it is free."""
    sizes = sorted((archive.size for archive in archives), reverse=True)
    begun = sum(
        file.stat().st_size for archive in archives for file in archive.begun() if file.is_file()
    )
    need = UNPACKED_RATIO * sum(sizes) + sum(sizes if keep else sizes[:jobs]) - begun
    existing = next(
        folder for folder in (data_dir, *data_dir.absolute().parents) if folder.is_dir()
    )
    free = shutil.disk_usage(existing).free
    text = f"{len(sizes)} archives to fetch, {gb(sum(sizes) - begun)}; takes about {gb(need)}"
    return f"{text}, {gb(free)} are free", need <= free


def gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.2f} GB"


def fetch_and_unpack(archive: Archive, keep: bool, progress) -> str:
    """One archive from the record to raw/<machine>; what it contained, in words."""
    path = archive.cache / archive.name
    fetch_file(archive.url, path, archive.size, archive.checksum, progress)
    unpack(path, archive.folder, archive.splits, merges=bool(archive.sections))
    if not keep:
        path.unlink()
    counts = " and ".join(f"{archive.clips(split)} {split}" for split in archive.splits)
    return f"{archive.name}: {counts} clips in {archive.folder}"


def run(archives: list[Archive], keep: bool, jobs: int) -> list[str]:
    """Several archives at once; the problems of those that failed."""
    stop, lock, problems = threading.Event(), threading.Lock(), []
    bar = tqdm(
        total=sum(a.size for a in archives),
        desc="fetching",
        unit="B",
        unit_scale=True,
        disable=None,
    )

    def progress(n_bytes: int) -> None:
        if stop.is_set():
            raise InterruptedError("stopped")
        with lock:
            bar.update(n_bytes)

    def work(archive: Archive) -> None:
        try:
            bar.write(fetch_and_unpack(archive, keep, progress))
        except (InputError, OSError) as error:
            problems.append(
                str(error) if isinstance(error, InputError) else f"{archive.name}: {error}"
            )
            bar.write(f"error: {problems[-1]}", sys.stderr)

    with bar, ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(work, archive) for archive in archives]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:  # Ctrl-C: what was fetched stays, the next call resumes
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return problems


def main(arguments: list[str] | None = None) -> None:
    official = dataset_names("records")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("datasets", nargs="+", metavar="dataset", help=" ".join(official))
    parser.add_argument("--machines", nargs="+", help="these only")
    parser.add_argument(
        "--keep-archives", action="store_true", help="in <data_dir>/<dataset>/archives/"
    )
    parser.add_argument("--jobs", type=int, default=4, help="archives at once (4)")
    parser.add_argument(
        "--dry-run", action="store_true", help="what, from where, how many GB, how many are free"
    )
    options = parser.parse_intermixed_args(arguments)
    if options.jobs < 1:
        raise InputError(f"--jobs {options.jobs}: at least 1")
    data_dir, todo, problems = options.data_dir, [], []
    if unknown := [name for name in options.datasets if name not in official]:
        names, allowed = " ".join(unknown), " ".join(official)
        raise InputError(f"dataset {names}: no official archives known; allowed are {allowed}")
    datasets = [load_dataset(name) for name in dict.fromkeys(options.datasets)]
    check_machines(options.machines, datasets)
    with ExitStack() as locks:
        for dataset in datasets:
            if not options.dry_run:
                locks.enter_context(
                    locked(data_dir / dataset.name, data_dir / dataset.name / ".lock")
                )
            archives = wanted_archives(data_dir, dataset, options.machines)
            problems += [problem for archive in archives for problem in archive.problems()]
            lacking = [archive for archive in archives if not archive.is_unpacked]
            records = list(dict.fromkeys(archive.record for archive in lacking))
            others = f" (the others: records {', '.join(map(str, records))})" if lacking else ""
            counts = f"{len(archives) - len(lacking)} of {len(archives)}"
            print(f"{dataset.name}: {counts} archives are already unpacked{others}")
            for record in records:
                problems += resolve(
                    record, [archive for archive in lacking if archive.record == record]
                )
            todo += [archive for archive in lacking if archive.name]
        for problem in problems:
            print("error:", problem, file=sys.stderr)
        if options.dry_run:
            for archive in todo:
                target = f"{archive.folder}/{{{','.join(archive.splits)}}}"
                print(f"{gb(archive.size):>9}  {archive.url} -> {target}")
        if todo:
            text, enough = room(data_dir, todo, options.keep_archives, options.jobs)
            if not enough:
                raise InputError(f"{data_dir}: not enough room: {text}")
            print(text)
            if not options.dry_run:
                problems += run(todo, options.keep_archives, options.jobs)
    if problems:
        several = f"{len(problems)} problems, see above"
        raise InputError(problems[0] if len(problems) == 1 else several)


if __name__ == "__main__":
    with one_line_errors(OSError):
        main()

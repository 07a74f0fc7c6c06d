"""Check a dataset: a table of its clips, compared with what src/config/dataset/*.yaml expects.

In a cell like "989 of 990" the first number is what exists, the second what is expected. The column
attributes says whether the names of the training clips have them. Every header is read, and the
first samples. Exit status: 0 experiments can start, 1 there is something to fix.
"""

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig
from tqdm import tqdm

from ground_truth import attribute_file, is_published
from settings.datasets import (
    dataset_names,
    expected_clips,
    ground_truth_folder,
    load_dataset,
    machine_folders,
    raw_folder,
    sections_of,
    units_of,
)
from unlabeledasd.audio.clip_names import (
    NO_ATTRIBUTE,
    SPLITS,
    UNKNOWN,
    name_notes,
    parse_clip,
    section_of,
)
from unlabeledasd.audio.folders import LeftOut
from unlabeledasd.audio.two_channels import Channel
from unlabeledasd.clips import (
    AUDIO_SUFFIXES,
    discover_machines,
    find_clips,
    machine_folder,
    refuse_twice,
    split_folders,
)
from unlabeledasd.errors import InputError, one_line_errors, printable
from unlabeledasd.waveforms import ClipReview, inspect_clip
from unpacking import MERGING

COLUMNS = ["machine", "split", "path", "kind", "attribute", "facts", "bytes", "problem"]
UNKNOWN_TEST = f"test_{UNKNOWN}"
LISTED = 50  # problems that are printed one by one
THREADS = 8
BATCH = 250  # clips that a thread takes at a time


def list_clips(
    root: Path, machines: list[str], grammar: str, left_out: LeftOut, problems: list[str]
) -> Iterator[tuple[str, str, str]]:
    """(machine, split, path relative to root) of what clips.index_clips finds.

    left_out: gets what is no clip; problems: gets folders that cannot be read.
    """
    for machine in machines:
        for split in SPLITS:
            every: list[str] = []
            for place in split_folders(root, machine_folder(root, machine), split, grammar):
                found = find_clips(root, place, grammar)
                left_out.merge(found.left_out, f"{place}/")
                problems += map(str, found.unreadable)
                every += found.files
            try:
                refuse_twice(root, every if grammar == "dcase2021" else ())
            except InputError as error:
                problems.append(str(error))
            yield from ((machine, split, path) for path in every)


def inspect(
    root: Path, machine: str, split: str, path: str, grammar: str, rate: int, channel: Channel
) -> tuple:
    """A row of COLUMNS."""
    file = root / path
    try:
        clip = parse_clip(path, grammar)
        if split == "train" and clip.condition != "normal":
            raise InputError(f"{file}: an anomalous clip in train/; training clips are normal")
        facts = inspect_clip(file, rate, channel)
        n_bytes = file.stat().st_size
    except (InputError, OSError) as error:
        return machine, split, path, "", "", None, 0, printable(error)
    kind = f"train_{clip.domain}" if split == "train" else f"test_{clip.condition}"
    return machine, split, path, kind, clip.attribute, facts, n_bytes, ""


def inspect_all(
    root: Path, clips: list[tuple[str, str, str]], dataset: DictConfig
) -> tuple[pd.DataFrame, list[str]]:
    """A table of COLUMNS, and notes on clips that can be used."""
    settings = dataset.grammar, dataset.sample_rate, dataset.channel
    batches = [clips[i : i + BATCH] for i in range(0, len(clips), BATCH)]
    review, rows = ClipReview(root, dataset.channel), []
    with (
        ThreadPoolExecutor(THREADS) as pool,
        tqdm(total=len(clips), unit="clip", leave=False, disable=None) as bar,
    ):
        for found in pool.map(
            lambda batch: [inspect(root, *clip, *settings) for clip in batch], batches
        ):
            rows += [reviewed(review, row) for row in found]
            bar.update(len(found))
    table = pd.DataFrame(rows, columns=COLUMNS)
    named = table[table.kind != ""]
    named = named.assign(condition=named.kind.str.rpartition("_")[2])
    return table, [*review.notes(), *name_notes(named, dataset.grammar)]


def reviewed(review: ClipReview, row: tuple) -> tuple:
    """The row, with the problem that shows next to other clips."""
    path, kind, facts = (row[COLUMNS.index(name)] for name in ("path", "kind", "facts"))
    try:
        if facts:
            review.add(path, facts, kind.rpartition("_")[2])
    except InputError as error:
        return (*row[:-1], str(error))
    return row


def table_row(
    clips: pd.DataFrame, expected: dict[str, int | None], true_attributes: bool
) -> dict[str, str]:
    """One machine; what is expected is shown where it is not there."""
    counts = clips.kind.value_counts()
    bare = counts.get(UNKNOWN_TEST, 0)
    cells = {}
    for kind, wanted in expected.items():
        there = counts.get(kind, 0)
        agrees = wanted in (None, there) or (bare and kind.startswith("test"))
        cells[kind.replace("_", " ")] = f"{there}" if agrees else f"{there} of {wanted}"
    attributes = "-"
    if has_train(clips):
        attributes = (
            "yes" if not is_unlabeled(clips) else "no, true ones here" if true_attributes else "no"
        )
    durations = [facts.seconds for facts in clips.facts if facts]
    seconds = [f"{value:.1f}" for value in (min(durations), max(durations))] if durations else ["-"]
    cells |= {
        "test unknown": f"{bare}",
        "attributes": attributes,
        "seconds": "-".join(dict.fromkeys(seconds)),
    }
    return {**cells, "GB": f"{clips.bytes.sum() / 1e9:.2f}"}


def has_train(clips: pd.DataFrame) -> bool:
    return (clips.kind.str.startswith("train")).any()


def is_unlabeled(clips: pd.DataFrame) -> bool:
    return (clips.attribute[clips.kind.str.startswith("train")] == NO_ATTRIBUTE).all()


def count_problems(
    folder: Path, section: str, clips: pd.DataFrame, expected: dict[str, int | None], grammar: str
) -> Iterator[str]:
    """What a machine lacks, or has too much of; section: in words, of its clips in the folder."""
    for split in SPLITS:
        here, place = clips[clips.split == split], f"{folder / split}{section}"
        if here.empty and not split_folders(folder.parent, folder.name, split, grammar):
            yield f"{place}: no such folder"
        elif here.empty:
            yield f"{place}: no {' or '.join(AUDIO_SUFFIXES)} file in it"
        else:
            wanted = {kind: n for kind, n in expected.items() if kind.startswith(split)}
            counts = here.kind.value_counts().to_dict()
            if UNKNOWN_TEST in counts:  # of bare names the sum alone is known
                wanted, counts = (
                    {"test": None if None in wanted.values() else sum(wanted.values())},
                    {"test": len(here)},
                )
            for kind, n in wanted.items():
                if n not in (None, counts.get(kind, 0)):
                    count, name = counts.get(kind, 0), kind.replace("_", " ")
                    yield f"{place}: {count} {name} clips, expected {n}"


def check(data_dir: Path, name: str) -> bool:
    """Print the table, notes and problems of a dataset; whether experiments can start."""
    dataset = load_dataset(name)
    root = raw_folder(data_dir, dataset)
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder; it holds <machine>/{{train,test}} (preprocess/download.sh)"
        )
    left_out, interrupted = LeftOut(), "was interrupted: run preprocess/download.sh again"
    there = discover_machines(root, left_out)
    machines = machine_folders(dataset) or there
    if not machines:
        raise InputError(
            f"{root}: no machine folder in it; expected <machine>/{{train,test}}/*.wav"
        )
    problems = [f"{path}: unpacking {interrupted}" for path in root.glob(f"*/{MERGING}*")]
    listed = list(list_clips(root, machines, dataset.grammar, left_out, problems))
    clips, clip_notes = inspect_all(root, listed, dataset)
    rows, notes = {}, [f"{root}: left out: {left_out}"] * bool(left_out.counts)
    problems += [problem for problem in clips.problem if problem]
    for machine, unit in [(m, unit) for m in machines for unit in units_of(dataset, m)]:
        mine, expected = clips[clips.machine == machine], expected_clips(dataset, unit)
        if unit != machine:
            mine = mine[mine.path.map(section_of) == unit[-2:]]
        true_attributes = ground_truth_folder(data_dir, dataset) / attribute_file(machine, "train")
        rows[unit] = table_row(mine, expected, true_attributes.is_file())
        own = f", section {unit[-2:]}" if unit != machine else ""
        folder = root / machine_folder(root, machine)
        problems += count_problems(folder, own, mine, expected, dataset.grammar)
        if (
            dataset.grammar != "free"
            and has_train(mine)
            and is_unlabeled(mine) != (machine in dataset.unlabeled)
        ):
            notes.append(
                f"{unit}: hidden attributes here and in `unlabeled` of the dataset's yaml differ"
            )
    for machine in machines:
        known = set(sections_of(dataset, machine))
        mine = clips.path[(clips.machine == machine) & (clips.problem == "")]
        if others := sorted(set(mine.map(section_of)) - known) if known else []:
            problems.append(f"{root / machine}: clips of other sections ({', '.join(others)})")
    if bare := list(clips.machine[clips.kind == UNKNOWN_TEST].unique()):
        text = (
            f"{', '.join(bare)}: test clips without ground truth, which give scores and no metrics"
        )
        if name in dataset_names("records") and is_published(dataset):
            problems.append(f"{text}; run DATA_DIR={data_dir} preprocess/add_gt_info.sh {name}")
        else:
            notes.append(text)
    if others := [machine for machine in there if machine not in machines]:
        notes.append(f"{', '.join(others)}: folders of no machine of {name}")
    table = pd.DataFrame.from_dict(rows, orient="index")
    print((table if bare else table.drop(columns="test unknown")).to_string())
    for line in [f"note: {note}" for note in notes] + clip_notes:
        print(printable(line))
    for line in problems[:LISTED]:
        print("problem:", line)
    if len(problems) > LISTED:
        print(f"... and {len(problems) - LISTED} more")
    gb = f"{len(clips)} clips, {clips.bytes.sum() / 1e9:.2f} GB"
    print(
        f"{name}: {gb}:",
        f"not ready, {len(problems)} to fix" if problems else "experiments can start",
    )
    return not problems


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("dataset", help="dcase2024, ..., demo, or folder:NAME")
    options = parser.parse_args(arguments)
    if not check(options.data_dir, options.dataset):
        sys.exit(1)


if __name__ == "__main__":
    with one_line_errors(OSError):
        main()

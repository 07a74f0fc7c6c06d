"""Give the bare evaluation test clips of DCASE Task 2 their names with ground truth.

  section_00_0000.wav -> section_00_source_test_normal_0031_<attributes>.wav

The official lists, and the true attributes of machines that hide them, are fetched from their
publisher (or read from --ground-truth) to <data_dir>/<dataset>/ground_truth/. Nothing is renamed
unless every clip of every machine fits its list; a journal per machine makes the renaming safe to
kill, to repeat and to undo.
"""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from omegaconf import DictConfig

from ground_truth import get_attributes, get_list, is_published, list_name
from linking import build_tree, remove_tree, wanted_links
from renaming import Renaming, plan, read_lists
from settings.datasets import (
    check_machines,
    dataset_names,
    ground_truth_folder,
    load_dataset,
    machine_folders,
    raw_folder,
    sections,
)
from unlabeledasd.errors import InputError, one_line_errors
from unlabeledasd.files import replacing
from unlabeledasd.runs.locks import locked

LINKS = "with_ground_truth"  # folder in data_dir


class Task:
    """One dataset: `prepare` reads and checks everything, `run` writes."""

    def __init__(self, dataset: DictConfig, options: argparse.Namespace):
        self.dataset, self.options = dataset, options
        self.raw = raw_folder(options.data_dir, dataset)
        self.tree = raw_folder(options.links, dataset)
        self.home = (
            options.links if options.mode == "symlink" else options.data_dir
        )  # what is written to
        self.kept = ground_truth_folder(self.home, dataset)
        self.lists = [self.kept, ground_truth_folder(options.data_dir, dataset)]
        chosen = options.machines
        self.machines = [m for m in machine_folders(dataset) if not chosen or m in chosen]
        self.files: dict[Path, bytes] = {}
        self.missing = ""  # why true attributes are
        self.renamings: list[Renaming] = []

    def prepare(self) -> None:
        evaluation = [
            machine for machine in self.dataset.machines.evaluation if machine in self.machines
        ]
        if not evaluation and not self.options.machines:
            raise InputError(
                f"dataset {self.dataset.name}: no evaluation machines, so no bare test clips"
            )
        if self.options.mode == "rename" and self.tree.is_dir():
            raise InputError(
                f"{self.tree}: links to the clips by their present names; "
                "first --mode symlink --undo"
            )
        lists = {} if self.options.undo else self.read(evaluation)
        for machine in evaluation:
            journal = self.kept / machine / "renamed.csv"
            if not self.options.undo or journal.is_file():
                others = sections(self.dataset, "development", machine)
                folder, rows = self.raw / machine, lists.get(machine)
                self.renamings.append(plan(folder, journal, rows, self.options.undo, others))

    def read(self, evaluation: list[str]) -> dict:
        """The official list; it and the true attributes are in `files` then, to be kept."""
        given = self.options.ground_truth
        content, source = get_list(self.dataset, self.lists, given)
        lists = read_lists(content.decode("utf-8-sig", "replace"), source)
        if lacking := [machine for machine in evaluation if machine not in lists]:
            raise InputError(f"{source}: no clips of {' '.join(lacking)} in it")
        self.files[Path(list_name(self.dataset))] = content
        attributes, self.missing = get_attributes(self.dataset, self.machines, self.lists, given)
        self.files |= attributes
        return lists

    def run(self) -> None:
        dry, undo, symlink = self.options.dry_run, self.options.undo, self.options.mode == "symlink"
        print(
            f"{self.dataset.name} in {self.raw}" + (" (dry run: nothing is changed)" if dry else "")
        )
        new = {
            name: content
            for name, content in self.files.items()
            if not (self.kept / name).is_file() or (self.kept / name).read_bytes() != content
        }
        for name, content in new.items() if not dry else ():
            with replacing(self.kept / name) as temporary:
                temporary.write_bytes(content)
        if new:
            put = "to be put" if dry else "put"
            print(f"  {len(new)} lists of names and true attributes {put} in {self.kept}")
        done = ("would be " if dry else "") + (
            "linked" if symlink else "undone" if undo else "renamed"
        )
        for renaming in self.renamings:
            if not dry and not symlink:
                renaming.run()
            steps, count = renaming.steps, len(renaming.present)
            if steps:
                example = f", {steps[0][0].name} -> {steps[0][1].name}, ..." if dry else ""
                print(f"  {renaming.machine}: {len(steps)} of {count} clips {done}{example}")
            else:
                print(f"  {renaming.machine}: all {count} clips already have these names")
        if self.missing:
            print(
                f"warning: {self.missing}; true attributes are missing, which the pseudo-labels gt "
                "need: run this again, or give --ground-truth DIR",
                file=sys.stderr,
            )
        if undo and not self.renamings:
            print("  nothing to undo: no journal of renamed clips")
        if symlink and not dry:
            for renaming in self.renamings:
                renaming.write_journal()
            links = wanted_links(
                self.options.data_dir, self.raw, self.tree, self.machines, self.renamings
            )
            state = (
                "links built, use"
                if build_tree(self.tree, links)
                else "links are as they should be, use"
            )
            print(f"  {state} DATA_DIR={self.home}")

    def remove_links(self) -> None:
        if not self.tree.is_dir():
            print(f"{self.tree}: nothing to undo, no such folder")
        elif self.options.dry_run:
            print(f"{self.tree}: would be removed")
        else:
            remove_tree(self.tree)
            for journal in self.kept.glob("*/renamed.csv"):
                journal.unlink()
            print(f"{self.tree}: removed")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_dir", type=Path)
    parser.add_argument(
        "datasets", nargs="*", metavar="dataset", help="(all in data_dir that have ground truth)"
    )
    parser.add_argument("--mode", choices=["rename", "symlink"], default="rename")
    parser.add_argument(
        "--links", type=Path, metavar="DIR", help=f"where symlink builds (<data_dir>/{LINKS})"
    )
    parser.add_argument(
        "--ground-truth", type=Path, metavar="DIR", help="read the lists there, fetch nothing"
    )
    parser.add_argument("--machines", nargs="+", help="these only")
    parser.add_argument(
        "--undo", action="store_true", help="give the bare names back; symlink: remove the links"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, change nothing")
    options = parser.parse_intermixed_args(arguments)
    options.links = options.links or options.data_dir / LINKS
    if not options.data_dir.is_dir():
        raise InputError(f"data_dir {options.data_dir}: no such folder")
    official = dataset_names("records")
    tasks = [
        Task(load_dataset(name), options) for name in dict.fromkeys(options.datasets or official)
    ]
    if not options.datasets:
        tasks = [task for task in tasks if task.raw.is_dir() and is_published(task.dataset)]
    if not tasks:
        raise InputError(
            f"data_dir {options.data_dir}: none of {' '.join(official)} in it that has ground truth"
        )
    check_machines(options.machines, [task.dataset for task in tasks])
    if options.mode == "symlink" and options.undo:
        for task in tasks:
            task.remove_links()
        return
    with ExitStack() as locks:
        for task in tasks:
            if not task.raw.is_dir():
                raise InputError(f"{task.raw}: no such folder; preprocess/download.sh makes it")
            if not options.dry_run:
                locks.enter_context(
                    locked(task.home / task.dataset.name, task.home / task.dataset.name / ".lock")
                )
            task.prepare()
        for task in tasks:
            task.run()


if __name__ == "__main__":
    with one_line_errors(OSError):
        main()

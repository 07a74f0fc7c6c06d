"""A tree of links with the full names of clips: <links>/<dataset>/all/raw/<machine>/..."""

import os
import shutil
from pathlib import Path

from renaming import Renaming, audio_files
from unlabeledasd.audio.clip_names import SPLIT_FOLDERS
from unlabeledasd.errors import InputError


def wanted_links(
    data_dir: Path, raw: Path, tree: Path, machines: list[str], renamings: list[Renaming]
) -> dict[Path, Path]:
    """Link in `tree` -> its target: whole machines, or their parts where clips are renamed.

    Links are relative where the tree lies in the data folder, which can then be moved or mounted
    elsewhere.
    """
    tree, data = tree.resolve(), data_dir.resolve()
    raw = data / raw.relative_to(data_dir)
    renamed = {renaming.machine: renaming for renaming in renamings}
    originals = {}
    for machine in machines:
        if machine not in renamed:
            originals[Path(machine)] = raw / machine
            continue
        for path in sorted((raw / machine).iterdir()):
            if path.name not in SPLIT_FOLDERS["test"] and not path.name.startswith("."):
                originals[Path(machine, path.name)] = path
        named = {path.name: names.named for names, path in renamed[machine].present.items()}
        for name, path in audio_files(raw / machine).items():  # other sections' too
            originals[Path(machine, path.parent.name, named.get(name, name))] = path
    if data not in tree.parents:
        return originals
    return {
        link: Path(os.path.relpath(path, (tree / link).parent)) for link, path in originals.items()
    }


def existing_links(tree: Path) -> dict[Path, Path]:
    """Target of each link of a tree; InputError where it has a file that is no link."""
    links = {}
    for folder, folders, files in os.walk(tree):
        for path in [Path(folder, name) for name in [*folders, *files]]:
            if path.is_symlink():
                links[path.relative_to(tree)] = path.readlink()
            elif not path.is_dir():
                raise InputError(
                    f"{path}: a file, not a link; a tree of links is replaced or removed as a whole"
                )
    return links


def build_tree(tree: Path, links: dict[Path, Path]) -> bool:
    """Make `tree` consist of exactly `links`, all at once; False if it does already."""
    if tree.is_dir() and existing_links(tree) == links:
        return False
    new = tree.with_name(f".{tree.name}.new")
    remove_tree(new)
    for link, original in links.items():
        (new / link).parent.mkdir(parents=True, exist_ok=True)
        (new / link).symlink_to(original)
    remove_tree(tree)
    new.rename(tree)
    return True


def remove_tree(tree: Path) -> None:
    """Remove links and folders, never a file."""
    if tree.is_dir():
        existing_links(tree)
        shutil.rmtree(tree)  # does not follow links

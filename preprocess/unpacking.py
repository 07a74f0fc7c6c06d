"""Unpack an official archive into raw/<machine>: never outside of it, and each folder at once or
not at all."""

import re
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from unlabeledasd.audio.clip_names import SPLIT_FOLDERS
from unlabeledasd.clips import AUDIO_SUFFIXES
from unlabeledasd.errors import InputError

FOLDERS = {  # of an archive: what they become; 2021 has two for the test clips
    **{name: split for split, names in SPLIT_FOLDERS.items() for name in names},
    "supplemental": "supplemental",
}
MERGING = ".merging_"  # begins the name of a folder whose clips move next to those of others


def is_audio(name: str) -> bool:
    return name.lower().endswith(AUDIO_SUFFIXES) and not name.startswith(".")


def place(member: zipfile.ZipInfo, archive: Path) -> PurePosixPath | None:
    """Where a member belongs below raw/<machine>, whatever folders the archive has above that;
    None: nowhere."""
    name = member.filename
    path = PurePosixPath(name)
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    if path.is_absolute() or ".." in path.parts or re.search(r"[\\:\0]", name) or is_link:
        raise InputError(
            f"{archive}: its member {name!r} would leave the folder; nothing was unpacked"
        )
    if member.is_dir() or path.name.startswith(".") or "__MACOSX" in path.parts:
        return None
    for depth, part in enumerate(path.parts[:-1]):
        if part in FOLDERS:
            return PurePosixPath(FOLDERS[part], *path.parts[depth + 1 :])
    # attributes_00.csv lies next to the folders
    return PurePosixPath(path.name) if path.suffix == ".csv" else None


def unpack(archive: Path, folder: Path, splits: tuple[str, ...], merges: bool = False) -> None:
    """Unpack into a temporary folder in `folder`, then move, the `splits` last.

    A machine with its splits counts as complete. Folders of `splits` that contain files are left
    as they are; with `merges` the clips move next to those, of other sections, that lie there.
    """
    temporary = folder / f".unpacking_{archive.stem}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as file:
            members = [
                (member, target) for member in file.infolist() if (target := place(member, archive))
            ]
            for split in splits:
                if not any(
                    target.parts[0] == split and is_audio(target.name) for _, target in members
                ):
                    raise InputError(
                        f"{archive}: no clip of {split}/ in it, it begins {file.namelist()[:3]}"
                    )
            size = sum(member.file_size for member, _ in members)
            folder.mkdir(parents=True, exist_ok=True)
            if size > (free := shutil.disk_usage(folder).free):
                gb = f"{size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free"
                raise InputError(f"{folder}: no room for {archive.name}, it unpacks to {gb}")
            for member, target in members:
                (temporary / target).parent.mkdir(parents=True, exist_ok=True)
                with file.open(member) as source, (temporary / target).open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
        if merges:
            merge(temporary, folder, folder / f"{MERGING}{archive.stem}")
            return
        for path in sorted(
            temporary.iterdir(), key=lambda path: (path.name in splits, path.name == "test")
        ):
            target = folder / path.name
            if path.is_file() or not target.is_dir() or not any(target.iterdir()):
                path.replace(target)
            elif path.name in splits and not any(is_audio(file.name) for file in target.iterdir()):
                raise InputError(f"{target}: has files, but no clips; remove it")
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{archive}: cannot be unpacked ({error})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def merge(temporary: Path, folder: Path, half: Path) -> None:
    """Move all files of `temporary` to the same places in `folder`, but for those that it has.

    The folder `half` exists until all are there, so that an interrupted call is seen.
    """
    half.mkdir(exist_ok=True)
    for path in sorted(path for path in temporary.rglob("*") if path.is_file()):
        target = folder / path.relative_to(temporary)
        split = target.parent.name
        if not any(
            (folder / name / path.name).exists() for name in SPLIT_FOLDERS.get(split, [split])
        ):
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    half.rmdir()

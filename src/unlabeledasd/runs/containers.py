"""What packages ask of a user and a home, in a container that has neither."""

import getpass
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path


def stand_alone() -> None:
    """Give a user without an entry in the list of users a name, and caches a temporary folder.

    torch raises an error without the name, and numba (of UMAP and librosa) without a folder that it
    can write to. Environment variables that are set stay as they are.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"user{os.getuid()}"
    if not is_writable(home_cache()):
        variables = ["MPLCONFIGDIR"]
        numba = find_spec("numba")
        if numba is None or numba.origin is None or not is_writable(Path(numba.origin).parents[1]):
            variables.append("NUMBA_CACHE_DIR")
        for name in variables:
            if name not in os.environ:
                os.environ[name] = str(private_folder() / name.lower())


def home_cache() -> Path:
    """The folder for caches of this user, whether it exists or not."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return Path(given) if given else Path("~/.cache").expanduser()
    except RuntimeError:  # a user without an entry in the list of users
        return Path("/.cache")


def is_writable(folder: Path) -> bool:
    """Whether files can be written to a folder, or to the one that it would be made in."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)


def private_folder() -> Path:
    """A temporary folder that no other user writes to: what lies there is run as a program."""
    folder = Path(tempfile.gettempdir(), f"unlabeledasd-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022 or folder.is_symlink():
        return Path(tempfile.mkdtemp(prefix="unlabeledasd-"))
    return folder

"""Files from the web: resumed where a connection broke, verified, in their place only when they
are whole."""

import hashlib
import http.client
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from unlabeledasd.errors import InputError

TIMEOUT_S = 60  # without a byte
ATTEMPTS = 6  # in a row that bring nothing new
WAIT_S = 1.0  # before the second one, then twice as long each time
REPORTED_S = 4  # shorter waits are not reported
CHUNK_BYTES = 1 << 18  # what a kill loses at most
BROKEN = (
    URLError,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
    http.client.HTTPException,
)  # and not a full disk


class Unreachable(InputError):
    """The server did not answer, or the connection broke every time."""


def ask(url: str, start: int = 0) -> http.client.HTTPResponse:
    """The open response, from byte `start` on where the server can; InputError if asking again
    will not help."""
    if not url.startswith(("http://", "https://")):
        raise InputError(f"{url}: expected an address that begins with https:// or http://")
    headers = {"User-Agent": "unlabeledasd"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        return urlopen(Request(url, headers=headers), timeout=TIMEOUT_S)
    except HTTPError as error:
        if error.code >= 500 or error.code in (408, 429):  # tired, too many requests
            raise
        raise InputError(f"{url}: the server answers {error.code} {error.reason}") from None


def patiently(
    attempt: Callable, url: str, position: Callable[[], int] = lambda: 0, attempts: int = ATTEMPTS
):
    """What `attempt()` returns, tried again while connections break; Unreachable after so many
    `attempts` in a row that did not advance `position()`."""
    failures, reached = 0, position()
    while True:
        try:
            return attempt()
        except BROKEN as error:  # noqa: PERF203
            failures = failures + 1 if position() <= reached else 1
            reached = position()
            if failures == attempts:
                kept = f"; {reached} bytes are kept, the same command resumes" if reached else ""
                reason = getattr(error, "reason", None) or error
                raise Unreachable(f"{url}: {reason}, {attempts} times{kept}") from None
            asked_for = error.headers.get("Retry-After", "") if isinstance(error, HTTPError) else ""
            wait = min(
                120, max(WAIT_S * 2 ** (failures - 1), int(asked_for) if asked_for.isdigit() else 0)
            )
            if wait >= REPORTED_S:
                tqdm.write(
                    f"{url}: {getattr(error, 'reason', None) or error}; again in {wait:.0f} s",
                    sys.stderr,
                )
            time.sleep(wait)


def fetch_bytes(url: str, sha256: str | None = None, attempts: int = ATTEMPTS) -> bytes:
    """A small file; InputError where its checksum is another, Unreachable where no server
    answers."""

    def attempt() -> bytes:
        with ask(url) as response:
            return response.read()

    content = patiently(attempt, url, attempts=attempts)
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise InputError(f"{url}: its SHA-256 is {found}, expected {sha256}; nothing was kept")
    return content


def fetch_file(
    url: str,
    path: Path,
    size: int,
    checksum: str,
    progress: Callable[[int], object] = lambda n_bytes: None,
) -> None:
    """Fetch `url` to `path`, resuming from `<path>.part`.

    checksum: algorithm:digits; a whole file with another one is set aside as `<path>.wrong`.
    progress: called with the number of new bytes (negative where a server starts over); what it
    raises ends the download, which the next call resumes.
    """
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():  # not unpacked yet, or put there by hand
        path.replace(part)
    part.touch()
    if part.stat().st_size > size:
        set_aside(part, path, f"{part.stat().st_size} bytes, the record says {size}")

    def position() -> int:
        return part.stat().st_size

    def attempt() -> None:
        if (start := position()) == size:
            return
        with ask(url, start) as response, part.open("ab") as file:
            if start and not response.headers.get("Content-Range", "").startswith(
                f"bytes {start}-"
            ):
                file.truncate(0)  # the server sends all of it again
                progress(-start)
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                file.flush()
                progress(len(chunk))
                if file.tell() > size:
                    return  # more than there should be: the checksum will show it
        if position() < size:
            raise ConnectionError(f"the connection ended after {position()} of {size} bytes")

    progress(position())
    patiently(attempt, url, position)
    if (found := file_checksum(part, checksum.partition(":")[0])) != checksum:
        set_aside(part, path, f"its checksum is {found}, the record says {checksum}")
    part.replace(path)


def set_aside(part: Path, path: Path, reason: str) -> None:
    wrong = path.with_name(path.name + ".wrong")
    part.replace(wrong)
    raise InputError(
        f"{path.name}: {reason}; set aside as {wrong}; the same command fetches it again"
    )


def file_checksum(path: Path, algorithm: str) -> str:
    try:
        digest = hashlib.new(algorithm, usedforsecurity=False)
    except ValueError:
        raise InputError(
            f"{path}: the record gives a checksum of unknown kind {algorithm}"
        ) from None
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return f"{algorithm}:{digest.hexdigest()}"

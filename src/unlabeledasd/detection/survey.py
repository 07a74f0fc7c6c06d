"""What recordings are, before something is learned from them: machine, condition, length, level."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from unlabeledasd.audio.clip_names import (
    FULL_NAME,
    NO_ATTRIBUTE,
    read_condition,
    without_copy_suffix,
)
from unlabeledasd.detection.inbox import LAYOUT_FOLDERS, Recording
from unlabeledasd.errors import printable

SECONDS = (1.0, 10.0)  # least and most of a window
LEVEL_DB = 10  # from the machine's median
FULL_SCALE = 0.9999
CLIPPED_SHARE = 1e-3  # of the samples


@dataclass
class Facts:
    """What was found in one recording."""

    recording: str
    machine: str
    seconds: float
    rate: int
    channels: int
    level_db: float = np.nan
    clipped: float = 0.0
    notes: list[str] = field(default_factory=list)


def machine_name(recording: Recording, machine: str | None) -> str | None:
    """The machine of a recording; None for one below test/, which is not learned from."""
    path, argument = recording
    below = path.parent.relative_to(argument).parts if path != argument else ()
    if "test" in map(str.lower, below):
        return None
    folders = [name for name in below if name.lower() not in LAYOUT_FOLDERS]
    if machine or folders:
        return machine or folders[0]
    top = (path.parent if path == argument else argument).resolve()
    while top.name.lower() in LAYOUT_FOLDERS:
        top = top.parent
    return top.name


def stated_by(path: Path, machine: str) -> str:
    """normal, anomaly or unknown: what the folder and the name of a recording state."""
    match = FULL_NAME.fullmatch(without_copy_suffix(path.stem))
    stem = match["condition"] if match else path.stem
    return read_condition(path, machine, path.parts[-2:-1], stem)


def condition_of(recording: str, machine: str) -> str:
    """The operating condition of a recording; "" for none.

    Domain and attribute of an official name, else the folder in which it lies below the machine's.
    """
    path = Path(recording)
    if match := FULL_NAME.fullmatch(without_copy_suffix(path.stem)):
        return f"{match['domain']}-{match['attribute'] or NO_ATTRIBUTE}"
    folder = path.parent.name
    return "" if folder.lower() in LAYOUT_FOLDERS or folder == machine else folder


def measured(blocks: Iterator[np.ndarray], one: Facts) -> Iterator[np.ndarray]:
    """The same blocks; level and share of clipped samples go into `one`."""
    power, clipped, count = 0.0, 0, 0
    for block in blocks:
        power += float(np.square(block, dtype=np.float64).sum())
        clipped += int((np.abs(block) >= FULL_SCALE).sum())
        count += len(block)
        yield block
    one.level_db = 10 * np.log10(max(power / max(count, 1), 1e-12))
    one.clipped = clipped / max(count, 1)


def summary(facts: list[Facts]) -> list[str]:
    """Lines on the recordings of each machine: how many, how long, what is unusual.

    Those that could not be read to the end have no level, and are left out.
    """
    lines, facts = [], [one for one in facts if not np.isnan(one.level_db)]
    for machine in dict.fromkeys(one.machine for one in facts):
        own = [one for one in facts if one.machine == machine]
        seconds = [one.seconds for one in own]
        rates = ", ".join(map(str, sorted({one.rate for one in own})))
        channels = ", ".join(map(str, sorted({one.channels for one in own})))
        length = f"{min(seconds):.1f} to {max(seconds):.1f} s, {sum(seconds) / 3600:.2f} hours"
        head = f"{machine}: {len(own)} recordings, {length}; {rates} Hz, {channels} channel(s)"
        lines.append(head)
        level = np.nanmedian([one.level_db for one in own])
        findings = {
            f"level is over {LEVEL_DB} dB from the median ({level:.0f} dB)": [
                one for one in own if abs(one.level_db - level) > LEVEL_DB
            ],
            "clipped": [one for one in own if one.clipped > CLIPPED_SHARE],
        }
        for one in own:
            for note in one.notes:
                findings.setdefault(note, []).append(one)
        for finding, ones in findings.items():
            if ones:
                more = f" and {len(ones) - 1} more" if len(ones) > 1 else ""
                lines.append(printable(f"  {finding}: {ones[0].recording}{more}"))
    return lines


def channel_number(text: str) -> int | None:
    """None for the mean of all channels."""
    return None if text == "mean" else int(text)


def channel_words(channel: int | None) -> str:
    """What a recording of several channels is taken for."""
    named = {None: "the mean of all channels", 0: "the first channel"}
    return named.get(channel, f"channel {channel}, counted from 0")


def choose_seconds(facts: list[Facts], needed: int) -> float:
    """The length of a window: the median of the recordings', from 1 to 10 s.

    Less where a machine has fewer than `needed` recordings.
    """
    lengths = pd.Series([one.seconds for one in facts]).groupby([one.machine for one in facts])
    seconds = float(np.median([one.seconds for one in facts]))
    few = lengths.sum()[lengths.size() < needed]
    if len(few):
        seconds = min(seconds, few.min() / (4 * needed))
    return round(float(np.clip(seconds, *SECONDS)), 1)

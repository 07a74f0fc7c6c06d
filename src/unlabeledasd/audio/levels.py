"""What the levels of a recording say against its score: silence, offset, wrong scale."""

import numpy as np

from unlabeledasd.errors import InputError

PEAK_LIMIT = 1e10  # beyond it the squares of a spectrum of 18 s overflow float32
INTEGER_PEAK = 16.0  # floating point samples beyond it were never scaled to 1.0
SILENT_RANGE = 2 / 32768  # two steps of 16 bits: dither
OFFSET_RATIO = 10  # of the mean to the standard deviation
CANCEL_RATIO = 0.1  # of the mean of the channels to the loudest channel, root mean square
FEW_SECONDS = 0.1


def check_values(wave: np.ndarray, first: int = 0) -> None:
    """InputError for a sample of `wave` (T,) that is not finite, or that overflows later.

    first: the number of its first sample in the recording.
    """
    usable = np.abs(wave) <= PEAK_LIMIT
    if not usable.all():
        bad = int(np.argmin(usable))
        why = f"beyond {PEAK_LIMIT:g}" if np.isfinite(wave[bad]) else "not a finite number"
        raise InputError(f"sample {first + bad} is {wave[bad]:g}, {why}")


def length_notes(n_samples: int, sample_rate: float) -> list[str]:
    """A note on a recording of a few samples; sample_rate in Hz."""
    seconds = n_samples / sample_rate
    if not 0 < seconds < FEW_SECONDS:
        return []
    return [f"only {n_samples} samples ({seconds:.2g} s), repeated to the length of a window"]


def level_notes(wave: np.ndarray, is_float: bool) -> list[str]:
    """Notes on a whole recording (T,), as of Levels; InputError for values that cannot be used."""
    check_values(wave)
    levels = Levels()
    levels.add(wave)
    return levels.notes(is_float)


class Levels:
    """The levels of a recording that comes in blocks."""

    def __init__(self) -> None:
        self.count, self.sum, self.power = 0, 0.0, 0.0
        self.least, self.most = np.inf, -np.inf
        self.channel_power = np.zeros(1)

    def add(self, wave: np.ndarray, channels: np.ndarray | None = None) -> None:
        """wave: (T,) as it is scored, full scale 1.0; channels: (T, C) that it is the mean of."""
        if not wave.size:
            return
        values = wave.astype(np.float64)
        self.count += len(values)
        self.sum += float(values.sum())
        self.power += float(values @ values)
        self.least = min(self.least, float(values.min()))
        self.most = max(self.most, float(values.max()))
        if channels is not None:
            self.channel_power = self.channel_power + (channels.astype(np.float64) ** 2).sum(axis=0)

    def notes(self, is_float: bool = False) -> list[str]:
        """What a user should know of a recording that is scored.

        is_float: whether its samples are stored as floating point numbers.
        """
        if not self.count:
            return []
        found = []
        mean, peak = self.sum / self.count, max(-self.least, self.most)
        deviation = max(0.0, self.power / self.count - mean**2) ** 0.5
        if peak <= SILENT_RANGE:
            found.append("silent, no sound in it; used as it is")
        elif self.most - self.least <= SILENT_RANGE:
            found.append(f"constant at {mean:.3g} (DC), no sound in it; used as it is")
        elif abs(mean) > OFFSET_RATIO * deviation:
            ratio = abs(mean) / max(deviation, 1e-9)
            found.append(f"offset (DC) of {mean:.3g}, {ratio:.0f} times its sound; used as it is")
        loudest = self.channel_power.max()
        if loudest > 0 and self.power < CANCEL_RATIO**2 * loudest:
            found.append("its channels cancel each other when averaged; choose one of them")
        if is_float and peak > INTEGER_PEAK:
            found.append(f"samples up to {peak:g}, in the range of integers; full scale is 1.0")
        elif is_float and peak > 1:
            found.append(f"samples up to {peak:g}, beyond full scale (1.0); used as they are")
        return found

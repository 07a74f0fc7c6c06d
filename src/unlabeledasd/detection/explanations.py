"""Where a clip differs from a normal one: the band and the time, in one sentence and a picture.

Both clips become levels in dB, (BANDS, blocks of 0.1 s). The time of a normal clip means nothing
for another clip, so that each block is compared with the mean and the standard deviation over the
normal clip's blocks. The region found is the rectangle of bands and blocks with the largest
|sum of deviations| / sqrt(its size): the scan statistic for a shift in noise (M. Kulldorff, 1997).
"""

from dataclasses import dataclass
from pathlib import Path

import librosa
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

N_FFT = 1024  # samples
BANDS = 32
BLOCK_SECONDS = 0.1
FLOOR = 1e-10  # power, that of the rounding to 16 bits
LEAST_SPREAD = 1.0  # dB: the standard deviation over time of a band counts at least this much


@dataclass(frozen=True)
class Explanation:
    """Where a clip differs most from a normal one, and by how much in the mean over the region."""

    low_hz: float
    high_hz: float
    start_s: float
    end_s: float
    difference_db: float
    level_db: float  # median difference of the whole clip: its loudness

    def sentence(self) -> str:
        """For example "0.8-1.2 kHz, 3.1-3.4 s: +14 dB"."""
        band = f"{self.low_hz / 1000:.2g}-{self.high_hz / 1000:.2g} kHz"
        return f"{band}, {self.start_s:.1f}-{self.end_s:.1f} s: {self.difference_db:+.0f} dB"


def band_edges(sample_rate: int) -> np.ndarray:
    """Edges (BANDS + 1,) in Hz of the bands, of equal width on Slaney's mel scale from 0."""
    return librosa.mel_frequencies(BANDS + 1, fmin=0, fmax=sample_rate / 2)


def band_levels(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """(T,) -> mean power in dB of each band and block, (BANDS, blocks); at least one block."""
    wave = np.asarray(wave, np.float64)
    hop = round(BLOCK_SECONDS * sample_rate)
    wave = np.pad(wave, (0, max(0, max(hop, N_FFT) - len(wave))))
    n_blocks = len(wave) // hop
    step = N_FFT // 2
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    frames = sliding_window_view(wave, N_FFT)[::step]
    power = np.abs(np.fft.rfft(frames * window)) ** 2 / (window**2).sum()  # (frames, bins)
    hz = np.fft.rfftfreq(N_FFT, 1 / sample_rate)
    band = np.clip(np.searchsorted(band_edges(sample_rate), hz, "right") - 1, 0, BANDS - 1)
    of_band = (band == np.arange(BANDS)[:, None]).astype(float)
    of_band /= of_band.sum(1, keepdims=True).clip(min=1)
    middle = (np.arange(len(frames)) * step + N_FFT // 2) // hop
    of_block = (np.clip(middle, 0, n_blocks - 1) == np.arange(n_blocks)[:, None]).astype(float)
    of_block /= of_block.sum(1, keepdims=True).clip(min=1)
    return 10 * np.log10(np.maximum(of_band @ power.T @ of_block.T, FLOOR))


def differences(levels: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Levels (BANDS, blocks) minus the mean over time of a normal clip's, band by band."""
    return levels - normal.mean(1, keepdims=True)


def explain(wave: np.ndarray, normal: np.ndarray, sample_rate: int) -> Explanation:
    """The region in which `wave` (T,) differs most from a normal clip (T',)."""
    return compare(wave, normal, sample_rate)[0]


def compare(
    wave: np.ndarray, normal: np.ndarray, sample_rate: int
) -> tuple[Explanation, np.ndarray, np.ndarray]:
    """(explanation, levels of `wave` (T,), levels of a normal clip (T',)), of `band_levels`."""
    levels, normal_levels = (band_levels(x, sample_rate) for x in (wave, normal))
    difference = differences(levels, normal_levels)
    level = float(np.median(difference))
    spread = np.maximum(normal_levels.std(1, keepdims=True), LEAST_SPREAD)
    bands, blocks = strongest_region((difference - level) / spread)
    edges = band_edges(sample_rate)
    found = Explanation(
        float(edges[bands.start]),
        float(edges[bands.stop]),
        blocks.start * BLOCK_SECONDS,
        min(blocks.stop * BLOCK_SECONDS, len(wave) / sample_rate),
        float(difference[bands, blocks].mean()),
        level,
    )
    return found, levels, normal_levels


def panels(levels: np.ndarray, normal: np.ndarray) -> tuple[tuple[np.ndarray, str, tuple], ...]:
    """(image (BANDS, blocks), name of its colormap, (least, most) in dB) of the clip, of a normal
    clip and of their difference.
    """
    scale = tuple(np.percentile(np.concatenate([levels, normal], 1), [1, 100]))
    difference = differences(levels, normal)
    return (levels, "magma", scale), (normal, "magma", scale), (difference, "RdBu_r", (-20, 20))


def strongest_region(deviation: np.ndarray) -> tuple[slice, slice]:
    """The rectangle of (rows, columns) with the largest |sum| / sqrt(number of cells)."""
    n_rows, n_columns = deviation.shape
    rows = np.pad(np.cumsum(deviation, axis=0), ((1, 0), (0, 0)))
    widths = np.arange(n_columns + 1) - np.arange(n_columns + 1)[:, None]  # (start, stop)
    roots = np.sqrt(np.maximum(widths, 1))
    best, region = -1.0, (slice(0, n_rows), slice(0, n_columns))
    for first in range(n_rows):
        for last in range(first + 1, n_rows + 1):
            sums = np.pad(np.cumsum(rows[last] - rows[first]), (1, 0))
            strength = np.abs(sums - sums[:, None]) / (roots * np.sqrt(last - first))
            strength[widths <= 0] = -1
            place = int(strength.argmax())
            if strength.flat[place] > best:
                best = strength.flat[place]
                start, stop = divmod(place, n_columns + 1)
                region = slice(first, last), slice(start, stop)
    return region


def draw(
    file: Path, wave: np.ndarray, normal: np.ndarray, sample_rate: int, titles: tuple[str, str]
) -> None:
    """A picture of a clip, a normal clip and their difference, with the region marked.

    titles: of the clip and of the normal clip.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    found, levels, normal_levels = compare(wave, normal, sample_rate)
    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, 1)
    edges = band_edges(sample_rate) / 1000
    shown = zip(axes, panels(levels, normal_levels), (*titles, found.sentence()), strict=True)
    for axis, (image, colors, (least, most)), title in shown:
        times = np.arange(image.shape[1] + 1) * BLOCK_SECONDS
        mesh = axis.pcolormesh(times, edges, image, cmap=colors, vmin=least, vmax=most)
        axis.set_yscale("symlog", linthresh=1.0)
        axis.set(ylabel="kHz", ylim=(0, edges[-1]))
        axis.set_title(title, fontsize=9)  # names of clips are long
        axis.set_yticks([0, 0.5, 1, 2, 4, 8], ["0", "0.5", "1", "2", "4", "8"])
        axis.set_ylim(0, edges[-1])
        figure.colorbar(mesh, ax=axis, label="dB")
        if axis is not axes[1]:
            height = (found.high_hz - found.low_hz) / 1000
            corner = (found.start_s, found.low_hz / 1000)
            width = found.end_s - found.start_s
            axis.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="lime", lw=1.5))
    axes[2].set_xlabel("s")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=90, format="png")

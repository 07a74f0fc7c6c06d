"""The most misranked clips of a run: sounds, pictures, what differs from a normal clip."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr
from matplotlib import colormaps
from matplotlib.image import imsave
from scipy.signal import stft

from unlabeledasd.audio.two_channels import Channel
from unlabeledasd.detection.explanations import BANDS, BLOCK_SECONDS, band_edges, compare, panels
from unlabeledasd.detection.nearest import last_embeddings, nearest_training_clips
from unlabeledasd.errors import InputError, printable
from unlabeledasd.results import read_band_scores
from unlabeledasd.runs.folder import Run
from unlabeledasd.waveforms import read_clip

LISTEN_HZ = 16000
PICTURE_HZ, PICTURE_FRAMES = 128, 320  # rows and at most columns of a spectrogram
FLOOR_DB = -80.0


def wrongness(scores: np.ndarray, is_normal: np.ndarray) -> np.ndarray:
    """The fraction (N,) of clips of the other condition on the wrong side of each clip.

    These are normal clips above an anomaly, and anomalies below a normal clip; an equal score
    counts half.
    """
    scores, normal = np.asarray(scores, float), np.asarray(is_normal).astype(bool)
    wrong = np.zeros(len(scores))
    for rows, others, sign in ((normal, ~normal, -1), (~normal, normal, 1)):
        # > 0: the other one is on the wrong side
        margin = sign * (scores[others][None] - scores[rows][:, None])
        if others.any():
            wrong[rows] = ((margin > 0) + 0.5 * (margin == 0)).mean(axis=1)
    return wrong


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def webp_uri(picture: np.ndarray, quality: int) -> str:
    """Colours (rows, columns, 4) in 0 to 255, the first row on top, as a WebP picture."""
    buffer = io.BytesIO()
    colors = np.ascontiguousarray(picture[..., :3])
    imsave(buffer, colors, format="webp", pil_kwargs={"quality": quality})
    return data_uri("image/webp", buffer.getvalue())


def audio_uri(wave: np.ndarray, sample_rate: int) -> str:
    """A waveform (T,) as Ogg Opus of 16 kHz, under 3 kB a second, its peak at 0.9."""
    wave = soxr.resample(0.9 * wave / max(np.abs(wave).max(), 1e-9), sample_rate, LISTEN_HZ)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, LISTEN_HZ, "OPUS", format="OGG", compression_level=0.93)
    return data_uri("audio/ogg", buffer.getvalue())


def spectrogram_uri(wave: np.ndarray, sample_rate: int) -> str:
    """The spectrogram of a waveform (T,) as a WebP picture: 0 Hz at the bottom, 80 dB of range."""
    n_fft = 8 * PICTURE_HZ
    hop = max(n_fft // 2, len(wave) // PICTURE_FRAMES)
    wave = np.pad(wave, (0, max(0, n_fft - len(wave))))
    bins = stft(wave, nperseg=n_fft, noverlap=max(0, n_fft - hop), boundary=None, padded=False)[2]
    power = np.abs(bins[1:]) ** 2  # without 0 Hz
    power = power.reshape(PICTURE_HZ, -1, power.shape[1]).mean(axis=1)
    level = 10 * np.log10(power / max(power.max(), 1e-20) + 1e-20)
    return webp_uri(colormaps["magma"](np.clip(1 - level / FLOOR_DB, 0, 1), bytes=True)[::-1], 40)


def band_scores(
    test: Path, held_out: Path | None, paths: list[str], parts: Sequence[str] = ()
) -> dict:
    """The band scores of test clips, for the page: which band raised the score.

    test, held_out: score CSVs. names: of the bands; usual: the median of each over held-out
    training clips, over test clips where there are none; clips: path -> scores. Numbers
    have 3 significant digits. Empty for scores without bands. parts: the names of bands that are
    numbered.
    """
    table = read_band_scores(test)
    if table.columns.empty:
        return {}
    normal = read_band_scores(held_out) if held_out else table
    usual = (normal if len(normal.columns) else table).median()
    short = "{:.3g}".format
    return {
        "names": list(parts if list(table) == [str(i) for i in range(len(parts))] else table),
        "usual": [float(short(value)) for value in usual],
        "clips": {path: [float(short(value)) for value in table.loc[path]] for path in paths},
    }


def read_wave(path: Path, channel: Channel) -> np.ndarray:
    """The samples (T,) of a clip as float32, full scale 1; InputError where it cannot be read."""
    wave = read_clip(path, channel)
    return wave.astype(np.float32) / (32768 if wave.dtype == np.int16 else 1)


def listen(path: Path, channel: Channel, sample_rate: int) -> list[str] | None:
    """[audio, picture] as data URIs; None where the clip cannot be read."""
    try:
        wave = read_wave(path, channel)
    except InputError:
        return None
    return [audio_uri(wave, sample_rate), spectrogram_uri(wave, sample_rate)]


class Neighbors:
    """The nearest normal clips of a run's test clips, by the embeddings that it has kept.

    `missing` says why there are none; it is empty where there are some.
    """

    def __init__(self, run: Run):
        self.missing = ""
        try:
            self.table, self.embedding = last_embeddings(run)
        except InputError as error:
            reason = printable(error)
            if not run.keeps_embeddings:
                reason = "this run has kept no embeddings (keep_embeddings=false)"
            self.missing = f"No comparison with normal clips: {reason}"

    def nearest(self, paths: list[str]) -> dict[str, str]:
        """Test clip -> training clip; clips of other data than the run's own are left out."""
        if self.missing:
            return {}
        return nearest_training_clips(self.table, self.embedding, paths)


def compared(
    path: Path, normal: Path, channel: Channel, sample_rate: int, seconds: float | None
) -> dict:
    """What differs between the first `seconds` of a clip and of a normal clip, for the page.

    As of `difference`; where a file cannot be read: missing, the reason.
    """
    try:
        stop = round(seconds * sample_rate) if seconds else None
        waves = [read_wave(file, channel)[:stop] for file in (path, normal)]
    except InputError as error:
        return {"missing": printable(error)}
    return difference(*waves, sample_rate)


def difference(wave: np.ndarray, normal: np.ndarray, sample_rate: int) -> dict:
    """What differs between waveforms (T,) and (T',), for the page.

    sentence; picture: a data URI, the clip, the normal clip and their difference, one above the
    other; region: left, top, width and height of what differs, in percent of each of the three;
    scale.
    """
    found, levels, normal_levels = compare(wave, normal, sample_rate)
    width = levels.shape[1]
    images = []
    for image, colors, (least, most) in panels(levels, normal_levels):
        columns = np.arange(width) * image.shape[1] // width  # as wide as the clip's
        place = (image[::-1, columns] - least) / max(most - least, 1e-9)
        images.append(colormaps[colors](np.clip(place, 0, 1), bytes=True))
    edges, length = band_edges(sample_rate), width * BLOCK_SECONDS
    low, high = np.searchsorted(edges, [found.low_hz, found.high_hz])
    parts = (found.start_s / length, 1 - high / BANDS, (found.end_s - found.start_s) / length)
    return {
        "sentence": found.sentence(),
        "picture": webp_uri(np.concatenate(images), 60),
        "region": [round(100 * part, 1) for part in (*parts, (high - low) / BANDS)],
        "scale": f"0 to {edges[-1] / 1000:g} kHz (mel scale), {length:.1f} s",
    }

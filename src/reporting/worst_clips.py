"""The most misranked clips of a run, as pictures and sounds."""

import base64
import io

import numpy as np
import soundfile
import soxr
from matplotlib import colormaps
from matplotlib.image import imsave
from scipy.signal import stft

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
    buffer = io.BytesIO()
    picture = colormaps["magma"](np.clip(1 - level / FLOOR_DB, 0, 1), bytes=True)[::-1]
    picture = np.ascontiguousarray(picture[..., :3])
    imsave(buffer, picture, format="webp", pil_kwargs={"quality": 40})
    return data_uri("image/webp", buffer.getvalue())

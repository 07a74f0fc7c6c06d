"""Two microphones: what the far one hears is subtracted from the near one (DCASE 2026 Task 2).

W1 is a Wiener filter per clip: with C and F the STFTs of the near and the far channel,
H[f] = sum_t C conj(F) / (sum_t |F|^2 + 1e-12) over all frames, and C - H F is what remains. Where
the far microphone hears the machine too, coherent sound of the machine is removed as well.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from unlabeledasd.errors import InputError

Channel = int | str | None  # counted from 0, a name of NAMED, or None: there is one alone
NAMED = {"near": 0, "far": 1, "w1": 1}  # the last of the channels that are needed
N_FFT, HOP = 1024, 512  # samples
PEAK = 0.9  # to which both channels are scaled together
LEAST_POWER = 1e-12
LEAST_SAMPLES = N_FFT // 2 + 1  # for the reflection at both ends


def last_channel(channel: Channel) -> int:
    """The number of the last channel that is read; InputError for a name that is none."""
    if isinstance(channel, str):
        if channel not in NAMED:
            allowed = f"a number from 0, {', '.join(NAMED)}, or null: one channel alone"
            raise InputError(f"channel={channel}: allowed are {allowed}")
        return NAMED[channel]
    if channel is not None and channel < 0:
        raise InputError(f"channel={channel}: allowed is at least 0")
    return channel or 0


def take_channel(samples: np.ndarray, channel: Channel) -> np.ndarray:
    """The channel (T,) of samples (T, C), as they are stored; w1: of both, as float32.

    w1 of fewer than LEAST_SAMPLES is the near channel as it is.
    """
    if channel != "w1":
        return samples[:, last_channel(channel)]
    near, far = np.asarray(samples[:, :2], np.float32).T
    return subtract_far(near, far) if len(near) >= LEAST_SAMPLES else near


def subtract_far(near: np.ndarray, far: np.ndarray) -> np.ndarray:
    """W1 of two channels (T,) of any scale, T >= 513 -> (T,) float32 of the same scale."""
    peak = max(np.abs(near).max(), np.abs(far).max())
    if peak == 0:
        return np.zeros(len(near), np.float32)
    scale = PEAK / peak
    c, f = stft(near * scale), stft(far * scale)
    response = (c * f.conj()).sum(0) / ((np.abs(f) ** 2).sum(0) + LEAST_POWER)
    return (inverse_stft(c - response * f, len(near)) / scale).astype(np.float32)


def stft(wave: np.ndarray) -> np.ndarray:
    """(T,) -> (frames, 513) complex: periodic Hann window, centred, reflected at both ends."""
    padded = np.pad(np.asarray(wave, np.float64), N_FFT // 2, mode="reflect")
    return np.fft.rfft(sliding_window_view(padded, N_FFT)[::HOP] * hann())


def inverse_stft(spectra: np.ndarray, length: int) -> np.ndarray:
    """(frames, 513) complex -> (length,), the least-squares inverse of `stft`."""
    window = hann()
    frames = np.fft.irfft(spectra, N_FFT) * window
    total = np.zeros(N_FFT + (len(frames) - 1) * HOP)
    weight = np.zeros_like(total)
    for i, frame in enumerate(frames):
        place = slice(i * HOP, i * HOP + N_FFT)
        total[place] += frame
        weight[place] += window**2
    middle = slice(N_FFT // 2, N_FFT // 2 + length)
    return resized(total[middle], length) / np.maximum(resized(weight[middle], length), 1e-11)


def resized(values: np.ndarray, length: int) -> np.ndarray:
    """Values followed by zeros up to `length`: the last samples may be in no frame."""
    return np.pad(values, (0, length - len(values)))


def hann() -> np.ndarray:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)

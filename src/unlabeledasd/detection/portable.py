"""An exported run: networks as ONNX, spectra by scipy, scorers as arrays, a card as JSON. Needs no torch.

The ONNX graphs begin at the spectra: onnxruntime's DFT errs at the 288,000 points of the whole-clip spectrum, and an
STFT by matrix products would carry its Fourier matrices along. scipy's agree with torch's to float32 rounding.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import sliding_window_view
from scipy.signal import get_window
from sklearn.base import BaseEstimator

from unlabeledasd.detection.detector import Detector, Extractor, Machine, restore
from unlabeledasd.errors import InputError
from unlabeledasd.files import read_npz

CARD = "card.json"
ARRAYS = "scorers.npz"


def network_file(folder: Path, epoch: int) -> Path:
    return folder / f"epoch{epoch}.onnx"


def spectrum_magnitude(wave: np.ndarray) -> np.ndarray:
    """As spectra.spectrum_magnitude: (B, T) float32 -> (B, T // 2 + 1)."""
    return np.abs(scipy.fft.rfft(wave))


def stft_magnitude(wave: np.ndarray, n_fft: int, first_bin: int, n_bins: int) -> np.ndarray:
    """As spectra.StftMagnitude: (B, T) float32 -> (B, n_bins, T // (n_fft / 2) + 1)."""
    window = get_window("hann", n_fft).astype(np.float32)
    padded = np.pad(wave, ((0, 0), (n_fft // 2, n_fft // 2)), mode="reflect")
    frames = sliding_window_view(padded, n_fft, axis=1)[:, :: n_fft // 2]  # (B, frames, n_fft)
    bins = scipy.fft.rfft(frames * window)[..., first_bin : first_bin + n_bins]
    return np.abs(bins / np.sqrt((window**2).sum())).swapaxes(1, 2)


def spectra(wave: np.ndarray, stfts: list[dict[str, int]]) -> list[np.ndarray]:
    """The inputs of the ONNX graph, in order."""
    return [spectrum_magnitude(wave), *(stft_magnitude(wave, **stft) for stft in stfts)]


def onnx_extractor(file: Path, stfts: list[dict[str, int]]) -> Extractor:
    """Waveforms (B, T) float32 -> embeddings (B, D), by onnxruntime."""
    try:
        import onnxruntime
    except ImportError:
        raise InputError("onnxruntime is not installed: pip install onnxruntime") from None
    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    except Exception as error:  # classes of its own
        raise InputError(
            f"{file}: not a network that onnxruntime can load ({' '.join(str(error).split())})"
        ) from error
    names = [entry.name for entry in session.get_inputs()]
    return lambda wave: session.run(None, dict(zip(names, spectra(wave, stfts), strict=True)))[0]


def load_portable(folder: Path, build: Callable[[dict], BaseEstimator]) -> Detector:
    """build: makes the scorer that the card describes by `_target_` and settings."""
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    extractors = [
        onnx_extractor(network_file(folder, epoch), card["stfts"]) for epoch in card["epochs"]
    ]
    arrays, scorer, machines = read_npz(folder / ARRAYS), build(card["scorer"]), {}
    for name in card["machines"]:
        scorers = [restore(scorer, arrays, f"{epoch}/{name}/") for epoch in card["epochs"]]
        machines[name] = Machine(scorers, arrays[f"held_out/{name}"])
    return Detector(extractors, machines, card["sample_rate"], card["n_samples"], card["channel"])

"""An exported run: networks as ONNX, spectra by scipy, scorers as arrays, a card as JSON.

Needs no torch. The ONNX graphs begin at the spectra: onnxruntime's DFT is wrong at the 288,000
points of the whole-clip spectrum, and an STFT by matrix products would add its Fourier matrices to
the file. scipy's spectra agree with torch's to float32 rounding.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import sliding_window_view
from scipy.signal import get_window

from unlabeledasd.detection.detector import Detector, Extractor, MachineScorers
from unlabeledasd.errors import InputError
from unlabeledasd.files import read_npz
from unlabeledasd.scoring import restore

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


FRONT_ENDS: dict[str, Callable[..., np.ndarray]] = {
    "wave": lambda wave: wave,
    "spectrum": spectrum_magnitude,
    "stft": stft_magnitude,
}


def graph_inputs(wave: np.ndarray, inputs: list[dict]) -> list[np.ndarray]:
    """The inputs of the ONNX graph, in order.

    inputs: of each its `kind`, a name in FRONT_ENDS, and the settings of that function.
    """
    found = []
    for settings in inputs:
        settings = dict(settings)
        found.append(FRONT_ENDS[settings.pop("kind")](wave, **settings))
    return found


def onnx_extractor(file: Path, inputs: list[dict]) -> Extractor:
    """Waveforms (B, T) float32 -> embeddings (B, D) or (B, bands, D), by onnxruntime."""
    try:
        import onnxruntime
    except ImportError:
        raise InputError("onnxruntime is not installed: pip install onnxruntime") from None
    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has classes of its own
        reason = " ".join(str(error).split())
        raise InputError(f"{file}: not a network that onnxruntime can load ({reason})") from error
    names = [entry.name for entry in session.get_inputs()]

    def extract(wave: np.ndarray) -> np.ndarray:
        return session.run(None, dict(zip(names, graph_inputs(wave, inputs), strict=True)))[0]

    return extract


def load_portable(folder: Path, build: Callable[[dict, str, Path], Any]) -> Detector:
    """The detector of an exported folder; build: as loading.Build, for the scorer of the card."""
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    epochs, inputs = card["epochs"], card["inputs"]
    arrays = read_npz(folder / ARRAYS)
    scorer = build(card["scorer"], "scorer", folder / CARD)
    machines = {}
    for name in card["machines"]:
        scorers = [restore(scorer, arrays, f"{epoch}/{name}/") for epoch in epochs]
        of_windows = arrays.get(f"held_out_windows/{name}")
        machines[name] = MachineScorers(scorers, arrays[f"held_out/{name}"], of_windows)
    return Detector(
        extractors=[onnx_extractor(network_file(folder, epoch), inputs) for epoch in epochs],
        machines=machines,
        sample_rate=card["sample_rate"],
        n_samples=card["n_samples"],
        channel=card["channel"],
        alarm_rate=card.get("alarm_rate"),
        calibrated=card.get("calibrated", False),
    )

"""Export a finished run as a folder that scores without torch: ONNX, scorer arrays, a JSON card.

  python src/export.py results/exp/demo/subloss_0256_4096_1 detector/
  python src/score.py detector/ recording.wav --machine gearbox

Needs the extra requirements: pip install -e '.[export]'. The scores of the exported folder are
compared with those of the run before it is complete.
"""

import argparse
import logging
import shutil
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import unlabeledasd
from settings.kept import build_kept
from unlabeledasd.decisions import THRESHOLDS
from unlabeledasd.detection.detector import Detector
from unlabeledasd.detection.loading import (
    default_scorer,
    load_detector,
    load_networks,
    open_run,
)
from unlabeledasd.detection.portable import ARRAYS, CARD, graph_inputs, network_file
from unlabeledasd.errors import InputError, one_line_errors
from unlabeledasd.files import replacing, write_json, write_npz
from unlabeledasd.results import find_csv, read_metrics
from unlabeledasd.runs.folder import Run, version_name
from unlabeledasd.scoring import learned_arrays

TOLERANCE = 1e-4
LICENCE = (
    "The code is MIT; the licence of the weights is that of the recordings they were trained on, "
    "see data"
)


def write_network(network, file: Path) -> list[dict[str, Any]]:
    """Write an extractor without its spectra as ONNX, for any batch size.

    Returns what portable.graph_inputs computes for it.
    """
    import torch

    graph, inputs = graph_of(network)
    zeros = np.zeros((2, network.n_samples), np.float32)
    example = [torch.from_numpy(x) for x in graph_inputs(zeros, inputs)]
    batch = torch.export.Dim("batch")
    with replacing(file) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        torch.onnx.export(
            graph.eval(),
            tuple(example),
            temporary,
            input_names=["_".join(map(str, entry.values())) for entry in inputs],
            verbose=False,
            output_names=["clip_embedding"],
            dynamo=True,
            dynamic_shapes=(tuple({0: batch} for _ in inputs),),
            external_data=False,
        )
    return inputs


def graph_of(network) -> tuple[Any, list[dict[str, Any]]]:
    """(the module that becomes the graph, its inputs as portable.graph_inputs takes them)."""
    import torch
    from torch import nn

    from unlabeledasd.encoders.extractors import FrozenBeats, LoraBeats
    from unlabeledasd.encoders.spectral import SpectralEmbedding
    from unlabeledasd.encoders.views import NetWithSpectra
    from unlabeledasd.networks import MultiResolutionNet

    class Graph(nn.Module):
        def __init__(self, embed):
            super().__init__()
            self.network, self.embed = network, embed

        def forward(self, *inputs):
            return self.embed(*inputs)

    def stft_input(stft) -> dict[str, Any]:
        sizes = {"n_fft": stft.n_fft, "first_bin": stft.first, "n_bins": stft.n_bins}
        return {"kind": "stft", **{name: int(size) for name, size in sizes.items()}}

    def of_branches(spectrum, *stfts):
        pairs = zip(network.stfts, stfts, strict=True)
        branches = [branch.encode(stft) for branch, stft in pairs]
        return torch.cat([network.spectrum(spectrum), *branches], dim=1)

    def of_views(*inputs):
        n = len(network.spectra)
        views = zip(network.spectra, inputs[-n:], strict=True)
        spectra = [view.embed(stft)[0].flatten(1) for view, stft in views]
        return torch.cat([of_branches(*inputs[:-n]), *spectra], dim=1)

    def of_tokens(wave):
        tokens = network.base.encode(network.base.fbank(wave))
        return network.pool(tokens)

    if isinstance(network, MultiResolutionNet):
        inputs = [{"kind": "spectrum"}, *(stft_input(branch.stft) for branch in network.stfts)]
        if isinstance(network, NetWithSpectra):
            views = [stft_input(view.stft) for view in network.spectra]
            return Graph(of_views), [*inputs, *views]
        return Graph(of_branches), inputs
    if isinstance(network, SpectralEmbedding):
        return Graph(lambda stft: network.embed(stft)[0]), [stft_input(network.stft)]
    if isinstance(network, (FrozenBeats, LoraBeats)):
        return Graph(of_tokens), [{"kind": "wave"}]
    raise InputError(
        f"extractor {type(network).__name__}: not exported; exported are the networks of the "
        "paper, spectral embeddings and BEATs"
    )


def make_card(
    run: Run, config: dict, detector: Detector, inputs: list[dict[str, Any]]
) -> dict[str, Any]:
    """What an exported folder says about itself."""
    version = version_name(config["score_epochs"])
    machines = {}
    for name in detector.machines:
        thresholds = {kind: threshold(detector, name, kind) for kind in THRESHOLDS}
        file = find_csv(run, name, version, "test_result")
        metrics = file and {key: none_for_nan(x) for key, x in read_metrics(file).items()}
        machines[name] = {"thresholds": thresholds, "metrics": metrics}
    return {
        "unlabeledasd": unlabeledasd.__version__,
        "data": config["dataset"]["name"],
        "method": run.folder.name.removesuffix(f"_{config['seed']}"),
        "seed": config["seed"],
        "epochs": config["score_epochs"],
        "licence": LICENCE,
        "machines": machines,
        "sample_rate": detector.sample_rate,
        "n_samples": detector.n_samples,
        "channel": detector.channel,
        "alarm_rate": detector.alarm_rate,
        "calibrated": detector.calibrated,
        "inputs": inputs,
        "scorer": default_scorer(config)[1],
    }


def none_for_nan(value: float) -> float | None:
    return None if np.isnan(value) else value


def threshold(detector: Detector, machine: str, kind: str) -> float | None:
    """As src/score.py takes it by default; None where there is none."""
    try:
        return none_for_nan(detector.threshold(machine, kind))
    except InputError:
        return None


def export(folder: Path, out: Path) -> None:
    out = out.resolve()
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: exists and is not empty; name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as building:
        summary = write_checked(folder, Path(building))
        out.mkdir(exist_ok=True)
        # the card last: without it the folder is no detector
        for file in sorted(Path(building).iterdir(), key=lambda file: file.name == CARD):
            shutil.move(file, out)
    print(f"{out}: {summary}")


def write_checked(folder: Path, out: Path) -> str:
    """Write all files of an export and compare its scores with the run's -> a summary."""
    run, config = open_run(folder)
    epochs = config["score_epochs"]
    detector = load_detector(folder, build=build_kept)
    arrays = {f"held_out/{name}": machine.held_out for name, machine in detector.machines.items()}
    for name, machine in detector.machines.items():
        if machine.held_out_windows is not None:
            arrays[f"held_out_windows/{name}"] = machine.held_out_windows
        for epoch, scorer in zip(epochs, machine.scorers, strict=True):
            learned = learned_arrays(scorer).items()
            arrays |= {f"{epoch}/{name}/{key}": value for key, value in learned}
    write_npz(out / ARRAYS, arrays)
    networks = tqdm(
        load_networks(run, config, build_kept), total=len(epochs), desc="exporting", unit="network"
    )
    for epoch, network in zip(epochs, networks, strict=True):
        inputs = write_network(network, network_file(out, epoch))
    write_json(out / CARD, make_card(run, config, detector, inputs))
    # ONNX computes in float32, so it is compared with float32
    original = load_detector(folder, "32-true", build_kept)
    worst = greatest_difference(original, load_detector(out, build=build_kept))
    if worst > TOLERANCE:
        raise InputError(
            f"{folder}: scores of the export differ by {worst:.1e}, more than {TOLERANCE}"
        )
    size = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    agreement = f"scores within {worst:.1e} of the run's in float32"
    return f"{len(detector.machines)} machines, {size:.0f} MB, {agreement}"


def greatest_difference(one: Detector, other: Detector) -> float:
    """Between the scores of noise, loud and quiet, in a batch of 3 (exported with one of 2).

    Relative to the score where that is above 1.
    """
    noise = np.random.default_rng(0).standard_normal((3, one.n_samples)).astype(np.float32)
    waves = noise * np.float32([[0.3], [0.01], [0.0003]])
    differences = []
    for name in one.machines:
        scores, others = (detector.score_windows(waves, name) for detector in (one, other))
        differences.append((np.abs(scores - others) / np.maximum(np.abs(scores), 1)).max())
    return max(differences)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="results/exp/<dataset>/<method>_<seed>")
    parser.add_argument("out", type=Path, help="folder to write")
    options = parser.parse_args(arguments)
    # it misses torchvision, which is not needed here
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with one_line_errors(OSError):
        required = ("onnx", "onnxscript", "onnxruntime")
        if lacking := [name for name in required if not find_spec(name)]:
            raise InputError(f"{', '.join(lacking)}: not installed; pip install -e '.[export]'")
        export(options.run, options.out)


if __name__ == "__main__":
    main()

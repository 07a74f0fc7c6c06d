"""Export a finished run as one folder that scores without torch: ONNX networks, scorer arrays, a JSON card.

  python src/export.py results/exp/demo/subloss_0256_4096_1 detector/
  python src/score.py detector/ recording.wav --machine gearbox      needs numpy, scipy, scikit-learn, onnxruntime

Needs the extra requirements: pip install -e '.[export]'. The folder is checked against the run before it is done.
"""

import argparse
import logging
import shutil
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

import unlabeledasd
from reporting.grid import csv_of
from unlabeledasd.decisions import THRESHOLDS
from unlabeledasd.detection.detector import Detector
from unlabeledasd.detection.loading import load_detector, load_networks, open_run
from unlabeledasd.detection.portable import ARRAYS, CARD, network_file, spectra
from unlabeledasd.errors import InputError, one_line_errors
from unlabeledasd.files import replacing, write_json, write_npz
from unlabeledasd.runs.folder import Run, version_name

TOLERANCE = 1e-4
LICENCE = "The code is MIT; the licence of the weights is that of the recordings they were trained on, see data"


def write_network(network, file: Path) -> list[dict[str, int]]:
    """Write an extractor without its spectra as ONNX, of any batch size -> settings of portable.stft_magnitude."""
    import torch
    from torch import nn

    class FromSpectra(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, spectrum, *stfts):
            branches = [
                branch.encode(stft) for branch, stft in zip(self.network.stfts, stfts, strict=True)
            ]
            return torch.cat([self.network.spectrum(spectrum), *branches], dim=1)

    stfts = [
        {"n_fft": int(b.stft.n_fft), "first_bin": int(b.stft.first), "n_bins": int(b.stft.n_bins)}
        for b in network.stfts
    ]
    example = [
        torch.from_numpy(x) for x in spectra(np.zeros((2, network.n_samples), np.float32), stfts)
    ]
    names = ["spectrum", *(f"stft_{stft['n_fft']}" for stft in stfts)]
    batch = torch.export.Dim("batch")
    shapes = ({0: batch}, tuple({0: batch} for _ in stfts))
    with replacing(file) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        torch.onnx.export(
            FromSpectra().eval(),
            tuple(example),
            temporary,
            input_names=names,
            verbose=False,
            output_names=["embedding"],
            dynamo=True,
            dynamic_shapes=shapes,
            external_data=False,
        )
    return stfts


def make_card(
    run: Run, config: DictConfig, detector: Detector, stfts: list[dict[str, int]]
) -> dict:
    version = version_name(list(config.score_epochs))
    figures = {}
    for machine in detector.machines:
        if file := csv_of(run, machine, version, "test_result"):
            row = pd.read_csv(file).iloc[0].drop("post_process")
            figures[machine] = {
                name: None if np.isnan(value) else float(value) for name, value in row.items()
            }
    return {
        "unlabeledasd": unlabeledasd.__version__,
        "data": config.dataset.name,
        "method": run.folder.name.removesuffix(f"_{config.seed}"),
        "seed": config.seed,
        "epochs": list(config.score_epochs),
        "licence": LICENCE,
        "machines": {
            name: {
                "thresholds": {kind: threshold(detector, name, kind) for kind in THRESHOLDS},
                "metrics": figures.get(name),
            }
            for name in detector.machines
        },
        "sample_rate": detector.sample_rate,
        "n_samples": detector.n_samples,
        "channel": detector.channel,
        "stfts": stfts,
        "scorer": OmegaConf.to_container(next(iter(config.scorer.values()))),
    }


def threshold(detector: Detector, machine: str, kind: str) -> float | None:
    """As src/score.py takes it by default; None where it cannot be had."""
    try:
        value = detector.threshold(machine, kind)
    except InputError:
        return None
    return None if np.isnan(value) else value


def export(folder: Path, out: Path) -> None:
    out = out.resolve()
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: is there already and not empty; name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as building:
        told = write_checked(folder, Path(building))
        out.mkdir(exist_ok=True)
        for file in sorted(
            Path(building).iterdir(), key=lambda file: file.name == CARD
        ):  # without a card it is none
            shutil.move(file, out)
    print(f"{out}: {told}")


def write_checked(folder: Path, out: Path) -> str:
    """Write all files of an export and compare its scores with the run's -> what came of it."""
    run, config = open_run(folder)
    if not config.model.extractor._target_.endswith(".MultiResolutionNet"):
        raise InputError(
            f"{folder}: extractor {config.model.extractor._target_}; only MultiResolutionNet is exported"
        )
    detector = load_detector(folder)
    arrays = {f"held_out/{name}": machine.held_out for name, machine in detector.machines.items()}
    for i, epoch in enumerate(config.score_epochs):
        for name, machine in detector.machines.items():
            learned = {k: v for k, v in vars(machine.scorers[i]).items() if k.endswith("_")}
            arrays |= {f"{epoch}/{name}/{key}": value for key, value in learned.items()}
    write_npz(out / ARRAYS, arrays)
    networks = zip(config.score_epochs, load_networks(run, config), strict=True)
    for epoch, network in tqdm(
        networks, total=len(config.score_epochs), desc="exporting", unit="network"
    ):
        stfts = write_network(network, network_file(out, epoch))
    write_json(out / CARD, make_card(run, config, detector, stfts))
    # ONNX computes in float32, so it is float32 that it must agree with
    if (
        worst := greatest_difference(load_detector(folder, "32-true"), load_detector(out))
    ) > TOLERANCE:
        raise InputError(
            f"{folder}: scores of the export differ by {worst:.1e}, more than {TOLERANCE}"
        )
    size = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    return f"{len(detector.machines)} machines, {size:.0f} MB, scores within {worst:.1e} of the run's in float32"


def greatest_difference(one: Detector, other: Detector) -> float:
    """Between the scores of two detectors for noise, loud and quiet, in a batch of 3 (exported with 2)."""
    rng = np.random.default_rng(0)
    waves = rng.standard_normal((3, one.n_samples)).astype(np.float32) * np.float32(
        [[0.3], [0.01], [0.0003]]
    )
    return max(
        np.abs(one.score(waves, name) - other.score(waves, name)).max() for name in one.machines
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="results/exp/<dataset>/<method>_<seed>")
    parser.add_argument("out", type=Path, help="folder to write")
    options = parser.parse_args(arguments)
    logging.getLogger("torch.onnx").setLevel(
        logging.ERROR
    )  # it misses torchvision, which nobody needs here
    with one_line_errors(OSError):
        if lacking := [
            name for name in ("onnx", "onnxscript", "onnxruntime") if not find_spec(name)
        ]:
            raise InputError(f"{', '.join(lacking)}: not installed; pip install -e '.[export]'")
        export(options.run, options.out)


if __name__ == "__main__":
    main()

"""Average the anomaly scores of several epochs of a run, clip by clip, into the column AS-ensemble.

Reads <run>/<machine>/infer/version_epoch<N>/, writes <run>/<machine>/infer/version_epoch_<N>_<N>.../ and prints
the metrics. src/train.py does the same at the end of every run.
"""

import argparse
from pathlib import Path

from omegaconf import OmegaConf

from unlabeledasd.errors import InputError, one_line_errors
from unlabeledasd.results import average_scores, report
from unlabeledasd.runs.folder import Run, version_name


def ensemble(folder: Path, epochs: list[int], column: str) -> None:
    run = Run(folder)
    sources = [(version_name([epoch]),) * 2 for epoch in epochs]
    if not (machines := run.machines(sources[0][0])):
        raise InputError(
            f"{folder}: no scores of epoch {epochs[0]} in it; expected a folder of src/train.py"
        )
    with run.claim():
        average_scores(run, sources, version_name(epochs), column)
    print(folder, report(run, version_name(epochs), machines), sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="results/exp/<dataset>/<method>_<seed>"
    )
    default = Path(__file__).with_name("epoch_12_14_16.yaml")
    parser.add_argument(
        "--config", type=Path, default=default, help="epochs and column (default: %(default)s)"
    )
    arguments = parser.parse_args()
    with one_line_errors(OSError):
        settings = OmegaConf.load(arguments.config)
        if set(settings) != {"epochs", "column"} or len(settings.epochs) < 2:
            raise InputError(
                f"{arguments.config}: expected the keys epochs (two or more) and column"
            )
        for folder in arguments.runs:
            ensemble(folder, list(settings.epochs), settings.column)


if __name__ == "__main__":
    main()

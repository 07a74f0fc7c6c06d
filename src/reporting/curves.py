"""The score of a recording over time, as a file."""

import os
from pathlib import Path

import pandas as pd

from unlabeledasd.errors import printable
from unlabeledasd.files import replacing, write_csv


def curve_file(out: Path, arguments: list[Path], path: Path, machine: str) -> Path:
    """The place below `out` for the curve of the recording `path`.

    It lies in subfolders like those of the recording below `arguments`, and has its whole name, so
    that no two recordings have the same place.
    """
    folders = [argument if argument.is_dir() else argument.parent for argument in arguments]
    tops = [os.path.abspath(folder) for folder in folders]  # noqa: PTH100  links stay links
    place = Path(os.path.relpath(path, os.path.commonpath(tops)))
    return out / place.with_name(f"{machine}_{path.name}.csv")


def write_curve(file: Path, curve: pd.DataFrame, threshold: float, picture: bool) -> None:
    """Write the columns start_s, score and percentile as CSV; picture: as PNG too."""
    write_csv(file, curve)
    if not picture:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(curve.start_s, curve.score, marker=".")
    axes.axhline(threshold, color="tab:red", linestyle="--", label="threshold")
    title = {"title": printable(file.stem), "ylabel": "anomaly score"}
    axes.set(**title, xlabel="start of the window in s")
    axes.legend(loc="upper right")
    with replacing(file.with_suffix(".png")) as temporary:
        figure.savefig(temporary, format="png", dpi=100)

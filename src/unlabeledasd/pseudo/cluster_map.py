"""The picture of a machine's map: training clips coloured by cluster and by true attribute."""

from pathlib import Path

import pandas as pd
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unlabeledasd.audio.clip_names import UNKNOWN
from unlabeledasd.files import replacing

MARKERS = {"source": ".", "target": "x"}
MOST_NAMES = 50  # in a legend


def draw_map(file: Path, clips: pd.DataFrame, title: str) -> None:
    """clips: columns x, y, domain, cluster, true_attribute.

    The panel by true attribute is left out where that is unknown.
    """
    panels = {"cluster": clips.domain + " " + clips.cluster.astype(str)}
    if not (clips.true_attribute == UNKNOWN).any():
        panels["true attribute"] = clips.domain + " " + clips.true_attribute
    figure = Figure(figsize=(6.5 * len(panels), 5.5), layout="constrained")
    figure.suptitle(title)
    FigureCanvasAgg(figure)
    subplots = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, groups) in zip(subplots, panels.items(), strict=True):
        names = sorted(groups.unique(), key=source_first)
        colors = colormaps["tab20" if len(names) <= 20 else "gist_ncar"]
        for i, group in enumerate(names):
            rows = clips[groups == group]
            color = colors(i) if len(names) <= 20 else colors(i / len(names))
            marker = MARKERS[rows.domain.iloc[0]]
            axes.scatter(rows.x, rows.y, s=25, color=color, marker=marker, label=group)
        axes.set(title=f"by {name}: {len(names)}", xticks=[], yticks=[])
        if len(names) <= MOST_NAMES:
            columns, size = 1 + (len(names) - 1) // 25, "xx-small" if len(names) > 20 else "small"
            place = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
            axes.legend(**place, ncols=columns, fontsize=size)
    with replacing(file) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def source_first(group: str) -> tuple[bool, int, str]:
    """The order of "<domain> <cluster or attribute>": source, and 2 before 10."""
    return group.startswith("target"), len(group), group

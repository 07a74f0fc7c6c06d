"""The page of a report: what src/report.py --html writes, one file that needs no network."""

import json
from argparse import Namespace
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from plotly.offline import get_plotlyjs
from sklearn.metrics import roc_curve
from tqdm import tqdm

from reporting.grid import csv_of, find_run, machine_sets, single_epochs
from reporting.worst_clips import audio_uri, spectrogram_uri, wrongness
from settings.kept import load_config
from unlabeledasd.clips import parse_clip
from unlabeledasd.decisions import decision_threshold
from unlabeledasd.errors import InputError
from unlabeledasd.files import write_text
from unlabeledasd.labels import Labels
from unlabeledasd.metrics import MAX_FPR, OFFICIAL
from unlabeledasd.runs.folder import Run
from unlabeledasd.waveforms import read_clip

PARTS = Path(__file__).parent / "html"
LIMIT_MB = 15


def write_page(file: Path, tables: list[tuple], notes: str, options: Namespace) -> None:
    """tables: (title, cells, best) of report.sections."""
    tables = [
        *tables[:1],
        *(machine_table(dataset, options) for dataset in options.datasets),
        *tables[1:],
    ]
    media: dict = {}  # dataset/path -> sound and picture; a clip that several methods get wrong is there once
    data = {
        "datasets": [collect(dataset, options, media) for dataset in options.datasets],
        "media": media,
    }
    template = jinja2.Environment(autoescape=True).from_string(
        (PARTS / "page.html").read_text(encoding="utf-8")
    )
    text = template.render(
        title=f"{options.name}: {', '.join(options.datasets)}",
        version=options.version,
        tables=[(title, cells.reset_index(), best) for title, cells, best in tables if len(cells)],
        notes=notes.strip(),
        css=(PARTS / "page.css").read_text(encoding="utf-8"),
        script=(PARTS / "page.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
        data=json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    )
    write_text(file, text)
    if (size := len(text.encode()) / 1e6) > LIMIT_MB:
        print(
            f"{file}: {size:.0f} MB; smaller with --clips {max(0, options.clips - 1)}, or fewer --methods"
        )


def machine_table(dataset: str, options: Namespace) -> tuple[str, pd.DataFrame, pd.DataFrame]:
    """(title, cells, best) of the official score of each machine."""
    values = {method: {} for method in options.methods}
    for method in options.methods:
        for seed in options.seeds:
            run = find_run(options.results_dir, dataset, method, seed)
            for machine in machine_sets(dataset, run, options.version)["all"]:
                if file := csv_of(run, machine, options.version, "test_result"):
                    values[method].setdefault(machine, []).append(
                        pd.read_csv(file).hmean_official[0]
                    )
    means = pd.DataFrame(
        {
            method: {machine: 100 * np.mean(found) for machine, found in of.items()}
            for method, of in values.items()
        }
    ).rename_axis("machine")
    best = means.eq(means.max(axis=1), axis=0).mul(means.count(axis=1) > 1, axis=0)
    title = (
        f"{dataset}: official score of each machine (hmean_official) in percent, mean over seeds"
    )
    return title, means.map(lambda value: "" if np.isnan(value) else f"{value:.2f}"), best


def collect(dataset: str, options: Namespace, media: dict) -> dict:
    """Everything the page shows of a dataset: one run per method, the first seed that has scores."""
    runs = {}
    for method in options.methods:
        for seed in options.seeds:
            run = find_run(options.results_dir, dataset, method, seed)
            if machines := [
                m
                for m in machine_sets(dataset, run, options.version)["all"]
                if csv_of(run, m, options.version, "test_score")
            ]:
                runs[method] = (run, seed, machines)
                break
    methods, clips = {}, {}
    for method, (run, seed, machines) in runs.items():
        config = load_config(run)
        root = Path(options.data_dir or config.data_dir) / dataset / "all" / "raw"
        bar = tqdm(
            machines, desc=f"page, {dataset} {method}", unit="machine", leave=False, disable=None
        )
        methods[method] = {
            "seed": seed,
            "losses": losses(run),
            "machines": {machine: details(run, machine, options, clips) for machine in bar},
        }
        for machine in methods[method]["machines"].values():
            for path, _ in machine["worst"]:
                if (key := f"{dataset}/{path}") not in media:
                    media[key] = listen(
                        root / path, config.dataset.channel, config.dataset.sample_rate
                    )
    return {"name": dataset, "clips": clips, "methods": methods}


def details(run: Run, machine: str, options: Namespace, clips: dict) -> dict:
    """One machine of a run: curves, scores, figures by epoch, its map, its worst clips."""
    version = options.version
    test = pd.read_csv(csv_of(run, machine, version, "test_score"))
    scores, known = (
        test.iloc[:, 3].to_numpy(),
        test.is_normal.notna().all() and test.is_target.notna().all(),
    )
    groups = [kind_of(row) for row in test.itertuples()]
    made = {
        "scores": {
            kind: rounded(scores[[g == kind for g in groups]]) for kind in dict.fromkeys(groups)
        }
    }
    if file := csv_of(run, machine, version, "held_out_score"):
        held_out = pd.read_csv(file).iloc[:, 3].to_numpy()
        made["scores"]["held-out training"] = rounded(held_out)
        try:
            made["threshold"] = float(decision_threshold(held_out))
        except InputError:
            made["threshold"] = None
    if known:
        made["roc"] = roc_curves(scores, test.is_normal.to_numpy(), test.is_target.to_numpy())
    made["epochs"] = figures_by_epoch(run, machine, version)
    last = (single_epochs(version) or [version])[-1]
    if file := csv_of(run, machine, last, "map"):
        made["map"] = read_map(file, run, clips.setdefault(machine, {}))
    wrong = wrongness(scores, test.is_normal) if known else scores
    made["worst"] = []
    for i in np.argsort(-wrong, kind="stable")[: options.clips]:
        told = f"{groups[i]}, score {scores[i]:.4f}"
        if known:
            others = (
                "normal clips score higher" if not test.is_normal[i] else "anomalies score lower"
            )
            told += f"; {100 * wrong[i]:.0f} % of the {others}"
        made["worst"].append([test.path[i], told])
    return made


def kind_of(row) -> str:
    if pd.isna(row.is_normal) or pd.isna(row.is_target):
        return "unknown"
    return f"{'target' if row.is_target else 'source'} {'normal' if row.is_normal else 'anomaly'}"


def roc_curves(
    scores: np.ndarray, is_normal: np.ndarray, is_target: np.ndarray
) -> dict[str, list[list[float]]]:
    """ROC curves as [fpr, tpr], of the normal clips of each domain and of both against all anomalies; and the part
    of the last one that the partial AUC takes. None where there are no such clips."""
    chosen = {
        "source": is_target == 0,
        "target": is_target == 1,
        "both": np.full(len(scores), True),
    }
    curves = {}
    for name, domain in chosen.items():
        rows = (is_normal == 0) | domain
        if len(set(is_normal[rows])) == 2:
            fpr, tpr, _ = roc_curve(is_normal[rows] == 0, scores[rows])
            curves[name] = [rounded(fpr), rounded(tpr)]
            if name == "both":
                stop = np.searchsorted(fpr, MAX_FPR, "right")
                edge = np.interp(MAX_FPR, fpr[stop - 1 : stop + 1], tpr[stop - 1 : stop + 1])
                curves["partial"] = [rounded([*fpr[:stop], MAX_FPR]), rounded([*tpr[:stop], edge])]
    return curves


def figures_by_epoch(run: Run, machine: str, version: str) -> dict[str, list]:
    names = ["hmean_official", *OFFICIAL]
    epochs = [e for e in single_epochs(version) if csv_of(run, machine, e, "test_result")]
    rows = [pd.read_csv(csv_of(run, machine, epoch, "test_result")).iloc[0] for epoch in epochs]
    return {
        "epoch": [int(epoch.removeprefix("epoch")) for epoch in epochs],
        **{
            name: [None if np.isnan(row[name]) else round(float(row[name]), 4) for row in rows]
            for name in names
        },
    }


def read_map(file: Path, run: Run, clips: dict) -> dict:
    """x, y and class of each clip in `clips`, which is filled by the first run that has this machine."""
    table = pd.read_csv(file).set_index("path")
    if not clips:
        told = [parse_clip(path, "free") for path in table.index]
        clips |= {
            "path": table.index.tolist(),
            "domain": coded([clip.domain for clip in told]),
            "condition": coded(["training" if c.split == "train" else c.condition for c in told]),
            "attribute": coded([clip.attribute for clip in told]),
        }
    table = table.reindex(clips["path"])
    labels = Labels.load(run.labels)
    names = [
        labels.classes[labels.clips[path]] if path in labels.clips else "test clip"
        for path in table.index
    ]
    return {"x": rounded(table.x), "y": rounded(table.y), "class": coded(names)}


def coded(names: list[str]) -> dict[str, list]:
    """Names as indices into the sorted different ones."""
    values, codes = np.unique(names, return_inverse=True)
    return {"names": values.tolist(), "codes": codes.tolist()}


def losses(run: Run) -> dict[str, list]:
    """Mean of each term of the loss by epoch (from 1), over all times the run went on."""
    files = [
        file for file in (run.all / "logs/csv").glob("version_*/metrics.csv") if file.stat().st_size
    ]
    if not files:
        return {}
    table = pd.concat(map(pd.read_csv, sorted(files, key=lambda file: int(file.parent.name[8:]))))
    columns = [c for c in table if c == "loss_epoch" or (c.startswith("loss/"))]
    means = (
        table.groupby("epoch")[columns].last().dropna()
    )  # an epoch that was done twice: the later time
    terms = {
        "loss" if c == "loss_epoch" else c.removeprefix("loss/"): rounded(means[c]) for c in columns
    }
    return {"epoch": [int(epoch) + 1 for epoch in means.index], **terms}


def listen(path: Path, channel: int | None, sample_rate: int) -> list[str] | None:
    """[audio, picture] as data URIs; None where the clip is not there."""
    try:
        wave = read_clip(path, channel)
    except InputError:
        return None
    wave = wave.astype(np.float32) / (32768 if wave.dtype == np.int16 else 1)
    return [audio_uri(wave, sample_rate), spectrogram_uri(wave, sample_rate)]


def rounded(values) -> list[float | None]:
    """To 3 digits after the point, 3 significant ones for small values, since the page carries them; None for nan."""
    return [
        None if np.isnan(v) else float(f"{v:.3f}" if abs(v) >= 0.1 else f"{v:.3g}")
        for v in np.asarray(values)
    ]

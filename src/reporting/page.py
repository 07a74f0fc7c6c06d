"""The page of a report (src/report.py --html): one file that needs no network."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve
from tqdm import tqdm

from reporting.grid import find_run, machine_sets, single_epochs
from reporting.rendering import rendered
from reporting.worst_clips import Neighbors, band_scores, compared, listen, wrongness
from settings.kept import load_config
from settings.session import clip_folder
from unlabeledasd.audio.clip_names import parse_clip
from unlabeledasd.detection.conformal import threshold
from unlabeledasd.errors import InputError
from unlabeledasd.files import write_text
from unlabeledasd.labels import Labels
from unlabeledasd.metrics import MAX_FPR, OFFICIAL_OF, SINCE_2022, official_of
from unlabeledasd.results import find_csv, official_in, read_metrics, read_scores
from unlabeledasd.runs.folder import Run

LIMIT_MB = 15


def write_page(file: Path, tables: list[tuple], notes: str, options: Namespace) -> None:
    """tables: (title, cells, best) of report.sections."""
    tables = [
        *tables[:1],
        *(machine_table(dataset, options) for dataset in options.datasets),
        *tables[1:],
    ]
    # once for all methods: dataset/path -> sound and picture, -> normal clip -> what differs
    data: dict = {"media": {}, "compared": {}}
    data["datasets"] = [collect(dataset, options, data) for dataset in options.datasets]
    text = rendered(
        "page",
        data,
        title=f"{options.name}: {', '.join(options.datasets)}",
        version=options.version,
        tables=[(title, cells.reset_index(), best) for title, cells, best in tables if len(cells)],
        notes=notes.strip(),
    )
    write_text(file, text)
    if (size := len(text.encode()) / 1e6) > LIMIT_MB:
        fewer = f"--clips {max(0, options.clips - 1)}, or fewer --methods"
        print(f"{file}: {size:.0f} MB; smaller with {fewer}")


def machine_table(dataset: str, options: Namespace) -> tuple[str, pd.DataFrame, pd.DataFrame]:
    """(title, cells, best) of the official score of each machine."""
    official = SINCE_2022
    means: dict[str, dict[str, float]] = {}  # method -> machine -> percent
    for method in options.methods:
        found: dict[str, list[float]] = {}
        for seed in options.seeds:
            run = find_run(options.results_dir, dataset, method, seed)
            for machine in machine_sets(dataset, run, options.version)["all"]:
                if file := find_csv(run, machine, options.version, "test_result"):
                    official = official_in(file)
                    found.setdefault(machine, []).append(read_metrics(file)[official])
        means[method] = {machine: 100 * np.mean(values) for machine, values in found.items()}
    means = pd.DataFrame(means).rename_axis("machine")
    best = means.eq(means.max(axis=1), axis=0).mul(means.count(axis=1) > 1, axis=0)
    title = f"{dataset}: official score of each machine ({official}) in percent, mean over seeds"
    return title, means.map(lambda value: "" if np.isnan(value) else f"{value:.2f}"), best


def collect(dataset: str, options: Namespace, shared: dict) -> dict:
    """What the page shows of a dataset: a run per method, of the first seed that has scores.

    shared: `media` and `compared` of write_page, which get what is new.
    """
    runs = {}
    for method in options.methods:
        for seed in options.seeds:
            run = find_run(options.results_dir, dataset, method, seed)
            every = machine_sets(dataset, run, options.version)["all"]
            machines = [m for m in every if find_csv(run, m, options.version, "test_score")]
            if machines:
                runs[method] = (run, seed, machines)
                break
    methods, clips = {}, {}
    for method, (run, seed, machines) in runs.items():
        config = load_config(run)
        facts, neighbors = config.dataset, Neighbors(run)
        root = Path(options.data_dir or config.data_dir) / dataset / "all" / "raw"
        root = clip_folder(facts, root)
        form = (facts.channel, facts.sample_rate)
        shown = {}
        description = f"page, {dataset} {method}"
        for machine in tqdm(machines, description, unit="machine", leave=False, disable=None):
            found = shown[machine] = details(run, machine, options, clips)
            worst = [path for path, _ in found["worst"]]
            found["nearest"] = neighbors.nearest(worst)
            for path in worst:
                key = f"{dataset}/{path}"
                if key not in shared["media"]:
                    shared["media"][key] = listen(root / path, *form)
                if normal := found["nearest"].get(path):
                    pairs = shared["compared"].setdefault(key, {})
                    files = (root / path, root / normal)
                    seconds = facts.get("clip_seconds")
                    pairs[normal] = pairs.get(normal) or compared(*files, *form, seconds)
        methods[method] = {
            "seed": seed,
            "losses": losses(run),
            "machines": shown,
            "unexplained": neighbors.missing,
        }
    return {"name": dataset, "clips": clips, "methods": methods}


def details(run: Run, machine: str, options: Namespace, clips: dict) -> dict:
    """One machine of a run: curves, scores, metrics by epoch, its map, its most misranked clips."""
    version = options.version
    test = read_scores(find_csv(run, machine, version, "test_score"))
    scores = test.score.to_numpy()
    known = test.notna().all(axis=None)
    groups = [kind_of(row) for row in test.itertuples()]
    by_group = test.score.groupby(groups, sort=False)
    page = {"scores": {kind: rounded(values) for kind, values in by_group}}
    if file := find_csv(run, machine, version, "held_out_score"):
        held_out = read_scores(file).score.to_numpy()
        page["scores"]["held-out training"] = rounded(held_out)
        try:
            page["threshold"] = threshold(held_out, run.read_config().get("alarm_rate"))
        except InputError:
            page["threshold"] = None
    if known:
        page["roc"] = roc_curves(scores, test.is_normal.to_numpy(int), test.is_target.to_numpy(int))
    page["epochs"] = metrics_by_epoch(run, machine, version)
    last = (single_epochs(version) or [version])[-1]
    if file := find_csv(run, machine, last, "map"):
        page["map"] = read_map(file, run, clips.setdefault(machine, {}))
    wrong = wrongness(scores, test.is_normal) if known else scores
    page["worst"] = []
    for i in np.argsort(-wrong, kind="stable")[: options.clips]:
        text = f"{groups[i]}, score {scores[i]:.4g}"
        if known:
            higher, lower = "normal clips score higher", "anomalies score lower"
            others = lower if test.is_normal[i] else higher
            text += f"; {100 * wrong[i]:.0f} % of the {others}"
        page["worst"].append([test.path[i], text])
    files = (find_csv(run, machine, version, f"{split}_score") for split in ("test", "held_out"))
    page["bands"] = band_scores(*files, [path for path, _ in page["worst"]], run.read_parts())
    return page


def kind_of(row) -> str:
    if pd.isna(row.is_normal) or pd.isna(row.is_target):
        return "unknown"
    return f"{'target' if row.is_target else 'source'} {'normal' if row.is_normal else 'anomaly'}"


def roc_curves(
    scores: np.ndarray, is_normal: np.ndarray, is_target: np.ndarray
) -> dict[str, list[list[float]]]:
    """ROC curves as [fpr, tpr] of the normal clips of each domain, and of both, against anomalies.

    "partial" is the part of the last one that the partial AUC takes. A curve without clips is
    left out.
    """
    every = np.full(len(scores), True)
    chosen = {"source": is_target == 0, "target": is_target == 1, "both": every}
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


def metrics_by_epoch(run: Run, machine: str, version: str) -> dict[str, list]:
    epochs = [e for e in single_epochs(version) if find_csv(run, machine, e, "test_result")]
    rows = [read_metrics(find_csv(run, machine, epoch, "test_result")) for epoch in epochs]
    table: dict[str, list] = {"epoch": [int(epoch.removeprefix("epoch")) for epoch in epochs]}
    official = official_of(rows[0]) if rows else SINCE_2022
    for name in (official, *OFFICIAL_OF[official]):
        table[name] = [None if np.isnan(row[name]) else round(row[name], 4) for row in rows]
    return table


def read_map(file: Path, run: Run, clips: dict) -> dict:
    """x, y and class of each clip in `clips`, which the first run of this machine fills."""
    table = pd.read_csv(file).set_index("path")
    if not clips:
        grammar = load_config(run).dataset.get("grammar", "free")
        grammar = "free" if grammar == "dcase" else grammar  # reads the same, and other clips too
        parsed = [parse_clip(path, grammar) for path in table.index]
        conditions = ["training" if clip.split == "train" else clip.condition for clip in parsed]
        clips |= {
            "path": table.index.tolist(),
            "domain": coded([clip.domain for clip in parsed]),
            "condition": coded(conditions),
            "attribute": coded([clip.attribute for clip in parsed]),
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
    """Mean of each term of the loss by epoch (from 1), over all attempts of the run."""
    logs = (run.all / "logs/csv").glob("version_*/metrics.csv")
    files = [file for file in logs if file.stat().st_size]
    if not files:
        return {}
    table = pd.concat(map(pd.read_csv, sorted(files, key=lambda file: int(file.parent.name[8:]))))
    columns = [c for c in table if c == "loss_epoch" or c.startswith("loss/")]
    means = table.groupby("epoch")[columns].last().dropna()  # the later of two attempts
    terms = {c.removeprefix("loss/").removesuffix("_epoch"): rounded(means[c]) for c in columns}
    return {"epoch": [int(epoch) + 1 for epoch in means.index], **terms}


def rounded(values) -> list[float | None]:
    """Values with 3 decimals, small ones with 3 significant digits, to keep the page small.

    None for nan.
    """

    def short(value: float) -> float:
        return float(f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.3g}")

    return [None if np.isnan(value) else short(value) for value in np.asarray(values)]

"""The files of a submission to DCASE Challenge Task 2, of one run or of several runs' mean scores.

  python src/submit.py results/exp/dcase2024/subloss_0256_4096_1 --out submission
  python src/submit.py results/exp/dcase2024/subloss_0256_4096_{1,2,3,4,5} --out submission

Writes anomaly_score_<machine>_section_<NN>_test.csv and
decision_result_<machine>_section_<NN>_test.csv (clip, value; no header) of the evaluation
machines, of all machines where the dataset has none, and meta.yaml to be completed by hand.
A clip is anomalous above the threshold: a quantile of a gamma distribution fitted to the scores
of held-out training clips, or of these scores where some are negative. Evaluation clips have their
official bare names (section_00_0000.wav), also after preprocess/add_gt_info.sh.
Prints precision, recall and F1 of the machines with known ground truth, as the official evaluator
defines them.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from settings.datasets import (
    dataset_names,
    expected_clips,
    ground_truth_folder,
    load_dataset,
    raw_folder,
    units,
)
from settings.kept import load_config, trained_extractor
from unlabeledasd.audio.clip_names import NO_ATTRIBUTE, UNKNOWN, bare_name, parse_clip
from unlabeledasd.decisions import THRESHOLDS, decision_metrics
from unlabeledasd.detection.conformal import threshold as threshold_of
from unlabeledasd.detection.loading import open_run
from unlabeledasd.errors import InputError, one_line_errors
from unlabeledasd.files import write_text
from unlabeledasd.metrics import OFFICIAL, evaluate
from unlabeledasd.results import CLIP_COLUMNS, find_csv, read_scores
from unlabeledasd.runs.folder import Run, version_name

META_HEAD = """\
# Replace every null, and compare with the template of the challenge's year: its keys change.
# Label: <last name of the corresponding author>_<institute>_task2_<number of the submission>
"""
RANKING = ("auc_source", "auc_target", "pauc")  # short names of metrics.OFFICIAL


def mean_scores(runs: list[Run], machine: str, version: str, kind: str) -> pd.DataFrame:
    """The clips and flags of a machine, with the mean over the runs of their default scores."""
    tables = []
    for run in runs:
        file = find_csv(run, machine, version, f"{kind}_score")
        if file is None:
            raise InputError(f"{run.folder}: no {kind} scores of {machine} in version {version}")
        tables.append(read_scores(file))
        if tables[-1].path.tolist() != tables[0].path.tolist():
            raise InputError(f"{file}: other clips than in {runs[0].folder}")
    scores = np.mean([table.score for table in tables], axis=0)
    return tables[0][CLIP_COLUMNS].assign(score=scores)


def official_names(paths: list[str], unit: str, dataset: DictConfig, data_dir: Path) -> list[str]:
    """The names of a machine's or section's clips as the challenge published them, as wav files.

    Clips of evaluation machines that carry ground truth were renamed, which the journal records,
    or are links to files with bare names; clips of other machines keep their names.
    """
    names = [f"{Path(path).stem}.wav" for path in paths]
    machine = paths[0].split("/")[0]
    if unit not in units(dataset, "evaluation"):
        return names
    journal, renamed = ground_truth_folder(data_dir, dataset) / machine / "renamed.csv", {}
    if journal.is_file():
        for row in pd.read_csv(journal).itertuples():
            clip = parse_clip(f"{machine}/test/{row.named}", dataset.grammar)
            renamed[clip] = row.bare
            if clip.attribute == NO_ATTRIBUTE:  # the authors' code writes the true one there
                renamed[replace(clip, attribute="")] = row.bare
    for i, path in enumerate(paths):
        clip = parse_clip(path, dataset.grammar)
        if clip.condition != UNKNOWN:
            bare = renamed.get(clip) or renamed.get(replace(clip, attribute=""))
            bare = bare or (raw_folder(data_dir, dataset) / path).resolve().name
            if not bare_name(bare.removesuffix(".wav")):
                raise InputError(
                    f"{path}: its official bare name is not known: no {journal}, and the clip is "
                    "no link to a file with a bare name (--data-dir says where they are)"
                )
            names[i] = bare
    return names


def check_complete(names: list[str], machine: str, dataset: DictConfig) -> None:
    """InputError unless the clips are as many as the dataset has, each once, without a gap."""
    counts = expected_clips(dataset, machine)
    expected = [counts["test_normal"], counts["test_anomaly"]]
    if None not in expected and len(names) != sum(expected):
        count = f"{dataset.name} has {sum(expected)}"
        raise InputError(f"{machine}: scores of {len(names)} test clips, {count}")
    if repeated := len(names) - len(set(names)):
        raise InputError(f"{machine}: {repeated} clips have the name of another")
    matches = [match for name in names if (match := bare_name(name.removesuffix(".wav")))]
    indices: dict[str, set[str]] = {}  # by what is in front of them
    for match in matches:
        indices.setdefault(match[0].removesuffix(match["index"]), set()).add(match["index"])
    for head, own in indices.items():
        first = min(map(int, own)) and 1  # official clips are counted from 0 or from 1
        width = len(next(iter(own)))
        wanted = {f"{i:0{width}}" for i in range(first, int(max(own)))}
        if gaps := wanted - own:
            missing = f"{head}{min(gaps)}.wav"
            raise InputError(f"{machine}: no score of {missing}, but of clips after it")


def write_files(out: Path, table: pd.DataFrame, threshold: float) -> None:
    """table: columns name, section, machine, score."""
    for section, clips in table.sort_values("name").groupby("section"):
        decisions = (clips.score > threshold).astype(int)
        for kind, values in (("anomaly_score", clips.score), ("decision_result", decisions)):
            lines = pd.DataFrame({"name": clips.name, "value": values})
            file = out / f"{kind}_{clips.machine.iloc[0]}_section_{section}_test.csv"
            write_text(file, lines.to_csv(header=False, index=False))


def networks_of(run: Run) -> list[int]:
    """Parameters of each network that a run's scores come from: one per scored epoch.

    Of a fusion, those of all its runs.
    """
    config = load_config(run)
    if "fusion" in config:
        folders = dict.fromkeys(source.run for source in config.fusion.sources)
        return [network for folder in folders for network in networks_of(Run(folder))]
    parameters = sum(p.numel() for p in trained_extractor(run).parameters())
    return [parameters] * len(config.score_epochs)


def make_meta(runs: list[Run], config: DictConfig, metrics: dict[str, dict[str, float]]) -> str:
    """meta.yaml; metrics: development machine -> its official and decision metrics."""
    networks = [network for run in runs for network in networks_of(run)]
    development = {
        machine: {name: percent(value) for name, value in row.items()}
        for machine, row in metrics.items()
    }
    author = {
        **dict.fromkeys(("lastname", "firstname", "email")),
        "affiliation": dict.fromkeys(("institution", "location")),
    }
    meta = {
        "submission": {
            **dict.fromkeys(("label", "name", "abbreviation")),
            "authors": [author],
        },
        "system": {
            "description": {
                "input_sampling_rate": f"{config.model.extractor.sample_rate / 1000:g} kHz",
                "acoustic_features": "amplitude spectrum, amplitude spectrograms",
                "embeddings": None,
                "machine_learning_method": "CNN, sub-cluster AdaCos, k-means",
                "ensemble_method_subsystem_count": len(networks),
            },
            "complexity": {"total_parameters": sum(networks)},
            "external_datasets": None,
            "source_code": None,
        },
        "results": {"development_dataset": development},
    }
    return META_HEAD + OmegaConf.to_yaml(OmegaConf.create(meta))


def percent(value: float) -> float | None:
    return None if np.isnan(value) else round(100 * value, 2)


def submit(options: argparse.Namespace) -> None:
    opened = [open_run(folder) for folder in options.runs]
    runs, config = [run for run, _ in opened], OmegaConf.create(opened[0][1])
    dataset = config.dataset
    if dataset.name in dataset_names():
        dataset = load_dataset(dataset.name)
    version = options.version or version_name(list(config.score_epochs))
    data_dir = options.data_dir or Path(config.data_dir)
    known = runs[0].machines(version)
    every, rate = dataset.machines.evaluation, config.get("alarm_rate")
    given = [
        unit
        for name in options.machines or []
        for unit in (units(dataset, "evaluation", [name]) if name in every else [name])
    ]
    wanted = given or units(dataset, "evaluation") or known
    if lacking := [machine for machine in wanted if machine not in known]:
        raise InputError(f"{runs[0].folder}: no scores of {' '.join(lacking)} in version {version}")
    metrics, rows, ready = {}, [], []
    development = [machine for machine in units(dataset, "development") if machine in known]
    for machine in dict.fromkeys([*wanted, *development]):
        table = mean_scores(runs, machine, version, "test")
        held_out = mean_scores(runs, machine, version, "held_out").score.to_numpy()
        try:
            threshold = threshold_of(held_out, rate, options.threshold, options.quantile)
        except InputError as error:
            raise InputError(f"{machine}: {error}") from None
        if machine in wanted:
            names = official_names(table.path.tolist(), machine, dataset, data_dir)
            check_complete(names, machine, dataset)
            sections = [parse_clip(path, dataset.grammar).section for path in table.path]
            folders = table.path.str.split("/").str[0]
            ready.append((table.assign(name=names, section=sections, machine=folders), threshold))
        is_anomalous = (table.score > threshold).to_numpy()
        row = {"machine": machine, "clips": len(table), "threshold": threshold}
        row["anomalous"] = is_anomalous.sum()
        if table.notna().all(axis=None):
            metrics[machine] = machine_metrics(table, is_anomalous)
        rows.append({**row, **metrics.get(machine, {})})
    shown = {machine: metrics[machine] for machine in development if machine in metrics}
    for table, threshold in ready:  # all or none
        write_files(options.out, table, threshold)
    write_text(options.out / "meta.yaml", make_meta(runs, config, shown))
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4f}".format, na_rep="-"))
    print(f"{options.out}: {len(ready)} machines, complete; fill in meta.yaml")


def machine_metrics(table: pd.DataFrame, is_anomalous: np.ndarray) -> dict[str, float]:
    """The official metrics of a machine's scores, and those of its decisions."""
    official = evaluate(table.score, table.is_normal, table.is_target)
    ranking = {name: official[key] for name, key in zip(RANKING, OFFICIAL, strict=True)}
    return {**ranking, **decision_metrics(is_anomalous, table.is_normal, table.is_target)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="results/exp/<dataset>/<method>_<seed>"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--machines", nargs="+", help="these only")
    parser.add_argument("--version", help="which scores (the mean of the run's epochs)")
    parser.add_argument(
        "--threshold", choices=THRESHOLDS, default="auto", help="how (default: %(default)s)"
    )
    parser.add_argument(
        "--quantile", type=float, default=0.9, help="of held-out scores (default: %(default)s)"
    )
    parser.add_argument(
        "--data-dir", type=Path, help="where the clips are, if not where the run found them"
    )
    options = parser.parse_args()
    with one_line_errors(OSError):
        submit(options)


if __name__ == "__main__":
    main()

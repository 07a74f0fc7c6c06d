"""Cluster the embeddings of a dataset's unlabeled machines: the second half of making
pseudo-labels.

  python pseudoattr/cluster.py dataset=DATASET source=SOURCE seed=N data_dir=FOLDER [key=value ...]

Reads what pseudoattr/embed.py wrote and adds to its folder: per machine its clusters, the
criterion's curve and a map, for all of them report.csv, and last labels.json, which training
reads. Machines that have clusters of the same embeddings and settings are left alone. source=gt
takes the true attributes in place of clusters.
"""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import hydra
import numpy as np
import pandas as pd
from hydra.core.hydra_config import HydraConfig
from joblib import Parallel, delayed
from omegaconf import DictConfig, OmegaConf
from sklearn.base import BaseEstimator

from settings.build import CONFIG_PATH, build, launch, report_errors
from settings.check import check_config
from settings.datasets import load_unlabeled
from unlabeledasd.audio.clip_names import UNKNOWN
from unlabeledasd.errors import InputError
from unlabeledasd.files import write_csv, write_json
from unlabeledasd.labels import class_names
from unlabeledasd.pseudo.cluster_map import draw_map
from unlabeledasd.pseudo.clustering import DOMAINS, agreement
from unlabeledasd.pseudo.embeddings import embeddings_made_by, read_embeddings
from unlabeledasd.pseudo.label_file import PseudoLabels, fingerprint, true_attributes
from unlabeledasd.runs.folder import writing_alone

DONE = "clusters.json"  # of a machine: written last, what its clusters were made from
PACKAGES = ("umap-learn", "scikit-learn", "numpy")


@hydra.main(config_path=CONFIG_PATH, config_name="pseudo", version_base="1.3")
@report_errors()
def main(config: DictConfig) -> None:
    check_config(config)
    OmegaConf.resolve(config)
    if type(config.n_jobs) is not int or config.n_jobs == 0:
        raise InputError(
            f"n_jobs={config.n_jobs}: a number of machines, or -1 for as many as there are cores"
        )
    root, table, machines = load_unlabeled(config.dataset, Path(config.data_dir), config.fit_on)
    with writing_alone(Path(config.folder), Path(config.folder) / "lock"):
        make_labels(config, root, table, machines)


def make_labels(config: DictConfig, root: Path, table: pd.DataFrame, machines: list[str]) -> None:
    """Write the files of every machine, report.csv and labels.json."""
    folder = Path(config.folder)
    clips = table[(table.split == "train") & table.machine.isin(machines)].reset_index(drop=True)
    recordings = {
        machine: fingerprint(root, clips.path[clips.machine == machine]) for machine in machines
    }
    lists = Path(config.data_dir) / config.dataset.name / "ground_truth"
    clips["true_attribute"] = true_attributes(clips, lists)
    if config.source.teacher or config.source.embedder:
        settings = describe(config)
        clips["cluster"] = clusters(config, root, table, clips, settings)
        settings["weights"] = {
            m: embeddings_made_by(folder / m / "embedding_train.npz")["weights"] for m in machines
        }
    else:
        require_truth(config, clips, lists)
        settings = {"bare_attribute": config.source.bare_attribute}
        clips["cluster"] = clips.true_attribute
    if config.source.get("bare_attribute"):
        names = clips.true_attribute.tolist()
    else:
        parts = zip(clips.machine, clips.domain, clips.cluster.astype(str), strict=True)
        names = class_names(parts)
    report = make_report(clips)
    write_csv(folder / "report.csv", report)
    labels = dict(zip(clips.path, names, strict=True))
    PseudoLabels(config.dataset.name, config.source.name, settings, recordings, labels).save(
        folder / "labels.json"
    )
    print(report.to_string(index=False, na_rep="-", float_format="%.3f"))
    if report.ari.notna().any():
        mean = report[["ari", "nmi"]][report.domain == "source"].mean()
        print(
            f"mean of the source domains: adjusted Rand index {mean.ari:.3f}, "
            f"mutual information {mean.nmi:.3f}"
        )
    print(f"{len(set(names))} classes of {len(machines)} machines: {folder / 'labels.json'}")


def describe(config: DictConfig) -> dict:
    """How clusters are made; part of labels.json, and of what stored clusters are compared by."""
    return {
        "labeler": build(config.labeler).get_params(),
        "fit_on": config.fit_on,
        "packages": {name: version(name) for name in PACKAGES},
    }


def require_truth(config: DictConfig, clips: pd.DataFrame, lists: Path) -> None:
    """InputError where the true attribute of a clip is not known."""
    if len(unknown := clips[clips.true_attribute == UNKNOWN]):
        raise InputError(
            f"{lists}: no true attribute of {unknown.path.iloc[0]} ({len(unknown)} such clips); "
            f"DATA_DIR={config.data_dir} preprocess/add_gt_info.sh {config.dataset.name} fetches "
            "what is published"
        )


def clusters(
    config: DictConfig, root: Path, table: pd.DataFrame, clips: pd.DataFrame, settings: dict
) -> np.ndarray:
    """Cluster of every row of `clips` (N,), machine by machine, as many at a time as n_jobs."""
    jobs, files = [], []
    remedy = f"pseudoattr/embed.py source={HydraConfig.get().runtime.choices.source} makes them"
    for machine, rows in clips.groupby("machine", sort=False):
        folder = Path(config.folder) / machine
        paths, others = rows.path.tolist(), None
        embedding = read_embeddings(folder / "embedding_train.npz", root, paths, remedy)
        if config.fit_on == "all":
            test = table.path[(table.machine == machine) & (table.split == "test")].tolist()
            others = read_embeddings(folder / "embedding_test.npz", root, test, remedy)
        digest = hashlib.sha256(embedding.tobytes())
        digest.update(b"" if others is None else others.tobytes())
        key = {
            "clips": paths,
            "true_attributes": rows.true_attribute.tolist(),
            "embeddings": digest.hexdigest(),
            **settings,
        }
        files.append(folder / "clusters.csv")
        exists = files[-1].is_file() and (folder / DONE).is_file()
        if exists and json.loads((folder / DONE).read_text(encoding="utf-8")) == key:
            print(f"{machine}: already clustered, skipping")
        else:
            jobs.append((folder, rows, embedding, others, build(config.labeler), key))
    if jobs:  # labels of other clusters than those in this folder must not be taken for theirs
        (Path(config.folder) / "labels.json").unlink(missing_ok=True)
    with Parallel(config.n_jobs, return_as="generator") as parallel:
        for machine in parallel(delayed(cluster_machine)(*job) for job in jobs):
            print(f"{machine}: clustered", flush=True)
    return pd.concat(map(pd.read_csv, files)).set_index("path").cluster.loc[clips.path].to_numpy()


def cluster_machine(
    folder: Path,
    clips: pd.DataFrame,
    embedding: np.ndarray,
    others: np.ndarray | None,
    labeler: BaseEstimator,
    key: dict,
) -> str:
    """Write clusters.csv, criterion.csv and map.png of a machine; last, what they were made
    from."""
    (folder / DONE).unlink(missing_ok=True)
    labeler.fit(embedding, clips.domain == "target", others)
    x, y = labeler.map_.T
    result = clips[["path", "domain", "true_attribute"]].assign(cluster=labeler.labels_, x=x, y=y)
    write_csv(folder / "clusters.csv", result)
    criterion = labeler.get_params().get("criterion", "none")  # the number was given
    curve = [
        (domain, n, value)
        for domain in DOMAINS
        for n, value in enumerate(labeler.criterion_[domain], start=1)
    ]
    write_csv(
        folder / "criterion.csv",
        pd.DataFrame(curve, columns=["domain", "n_components", criterion]),
    )
    draw_map(folder / "map.png", result, f"{folder.name}, {folder.parent.name}")
    write_json(folder / DONE, key)
    return folder.name


def make_report(clips: pd.DataFrame) -> pd.DataFrame:
    """Per machine and domain: clips, clusters, true attributes, and how well they agree if
    known."""
    rows = []
    for (machine, domain), group in clips.groupby(["machine", "domain"], sort=False):
        known = not (group.true_attribute == UNKNOWN).any()
        ari, nmi = agreement(group.cluster, group.true_attribute) if known else (np.nan, np.nan)
        attributes = group.true_attribute.nunique() if known else pd.NA
        rows.append((machine, domain, len(group), group.cluster.nunique(), attributes, ari, nmi))
    columns = ["machine", "domain", "clips", "clusters", "true_attributes", "ari", "nmi"]
    return pd.DataFrame(rows, columns=columns).astype({"true_attributes": "Int64"})


if __name__ == "__main__":
    launch(main, __doc__, ("dataset", "source"))

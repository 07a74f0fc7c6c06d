"""Choose a method and a scorer without anomalies, from the embeddings of finished runs.

  python src/choose.py results/exp/NAME/subloss_0256_4096_1 results/exp/NAME/spectral_logmel_1
  python src/choose.py RUN ... --scorers knn ldn_ratio ldn_ratio@mean
  python src/choose.py RUN ... --regret          where the test clips have labels

For each run and scorer (names in src/config/scorer, NAME@PARTS for a part of the embedding:
docs/scorers.md), normal training clips that were held out from the scorer are compared with
pseudo-anomalies: clips of other machines, clips of attributes that the scorer has not seen, and
embeddings with shuffled dimensions. Prints the mean AUC of these kinds in percent, of each machine
and over all, the best one first; runs of several seeds are averaged. Nothing is read from test
clips, but by --regret, which adds the official score and what the choice loses against the best
row. docs/quality.md says how good such choices were.
"""

import argparse
import re
from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from settings.build import build
from settings.facts import load_choice
from unlabeledasd.errors import InputError, one_line_errors
from unlabeledasd.files import write_csv
from unlabeledasd.metrics import SINCE_2022
from unlabeledasd.runs.folder import Run
from unlabeledasd.runs.rescoring import Clips, kept_clips, official_score, rescore
from unlabeledasd.scorers.choice import KINDS, pseudo_anomaly_auc

SCORERS = (
    *("target_kmeans_cos", "knn", "ldn_ratio", "ldn_difference", "varmin", "domain_z"),
    *("domain_ratio", "domain_ecdf", "memmixup", "mahalanobis", "standardized_domain_z"),
)


def make_scorer(text: str):
    """The scorer NAME or NAME@PARTS, with the settings of its yaml."""
    name, _, parts = text.partition("@")
    node = deepcopy(load_choice("scorer", name)[name])  # which is cached
    if parts:
        inner = node.get("scorer", node)
        if "parts" not in inner:
            raise InputError(f"scorer {text}: takes no parts of an embedding")
        inner.parts = int(parts) if re.fullmatch(r"-?\d+", parts) else parts
    return build(node)


def machine_auc(clips: Clips, others: np.ndarray, scorer) -> float:
    """The mean over the kinds of pseudo-anomalies that a machine has."""
    attribute = clips.train.attribute.to_numpy()
    arrays = (clips.train_embedding, clips.is_target, attribute, others)
    return float(np.nanmean(list(pseudo_anomaly_auc(scorer, *arrays).values())))


def rate(run: Run, scorers: dict, regret: bool) -> list[dict]:
    """A row for each scorer: machine -> AUC; with `regret` the official score too."""
    epochs = list(kept_clips(run))
    machines = list(epochs[0])
    if lacking := [m for m in machines if len(epochs[0][m].train) < 2]:
        raise InputError(f"{run.folder}: {lacking[0]} has fewer than two training clips")
    rows = []
    for name, scorer in tqdm(scorers.items(), desc=run.folder.name, unit="scorer", leave=False):
        row = {"method": run.folder.name.rpartition("_")[0], "scorer": name}
        for machine in machines:
            values = []
            for every in epochs:
                rest = [c.train_embedding for other, c in every.items() if other != machine]
                others = np.concatenate(rest) if rest else every[machine].train_embedding[:0]
                values.append(machine_auc(every[machine], others, scorer))
            row[machine] = 100 * float(np.mean(values))
        if regret:
            tables = {machine: epochs[0][machine].test for machine in machines}
            scores = {m: rescore([every[m] for every in epochs], scorer).test for m in machines}
            official = run.read_config()["dataset"].get("official", SINCE_2022)
            row["official"] = 100 * official_score(tables, scores, official)
        rows.append(row)
    return rows


def choose(options: argparse.Namespace) -> None:
    scorers = {text: make_scorer(text) for text in options.scorers}
    rows = [row for folder in options.runs for row in rate(Run(folder), scorers, options.regret)]
    table = pd.DataFrame(rows).groupby(["method", "scorer"], sort=False).mean()
    machines = [column for column in table if column != "official"]
    if table[machines].isna().any(axis=None):
        raise InputError("the runs have different machines; compare runs of one dataset")
    table.insert(0, "all", table[machines].mean(axis=1))
    table = table.sort_values("all", ascending=False, kind="stable").reset_index()
    print(table.to_string(index=False, float_format="{:.1f}".format))
    best = table.iloc[0]
    print(f"chosen: {best.method} with scorer={best.scorer} (kinds: {', '.join(KINDS)})")
    if options.regret:
        lost = table.official.max() - best.official
        mean = table.official.max() - table.official.mean()
        print(f"regret {lost:.1f} points; of a random choice {mean:.1f}")
    if options.out:
        write_csv(options.out, table)
        print(f"table: {options.out}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="finished runs")
    parser.add_argument(
        "--scorers", nargs="+", default=SCORERS, metavar="NAME[@PARTS]", help="(most of them)"
    )
    parser.add_argument("--regret", action="store_true", help="what the choice loses, by labels")
    parser.add_argument("--out", type=Path, metavar="CSV", help="write the table there too")
    options = parser.parse_args()
    with one_line_errors(OSError):
        choose(options)


if __name__ == "__main__":
    main()

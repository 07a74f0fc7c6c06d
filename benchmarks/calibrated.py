"""False alarms of runs that were trained with calibrate=SHARE, against what they promise.

  python benchmarks/calibrated.py RUN...     results/exp/<dataset>/<method>_<seed>

Of the normal test clips, by domain: the share above the threshold of their machine. The mean over
machines and runs, since the promise is about the mean.
"""

import argparse
from pathlib import Path

import pandas as pd

from unlabeledasd.detection.conformal import conformal_threshold
from unlabeledasd.detection.loading import open_run
from unlabeledasd.errors import InputError, one_line_errors
from unlabeledasd.runs.folder import version_name
from unlabeledasd.runs.fusion import Source, scores_of


def false_alarms(folder: Path) -> pd.DataFrame:
    """Rows of the normal test clips of a run: run, machine, domain, alarm."""
    run, config = open_run(folder)
    if not config.get("calibrate"):
        raise InputError(f"{folder}: trained without calibrate, so nothing is promised")
    version, tables = version_name(config["score_epochs"]), []
    for machine in run.machines(version):
        source = Source(run, version)
        held_out, test = (scores_of(source, machine, split)[1] for split in ("held_out", "test"))
        limit = conformal_threshold(held_out.score.to_numpy(), config["alarm_rate"])
        normal = test[test.is_normal == 1]
        domain = normal.is_target.map({0: "source", 1: "target"})
        alarm = normal.score > limit
        own = pd.DataFrame({"domain": domain, "alarm": alarm})
        tables.append(own.assign(run=folder.name, machine=machine))
    return pd.concat(tables)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    with one_line_errors(OSError):
        table = pd.concat([false_alarms(folder) for folder in parser.parse_args().runs])
    shares = table.pivot_table(index=["run", "machine"], columns="domain", values="alarm")
    print(shares.to_string(float_format="{:.2f}".format))
    counts = table.groupby("domain").alarm.agg(["mean", "size"])
    for domain, row in counts.iterrows():
        print(f"{domain}: {row['mean']:.3f} of {row['size']:.0f} normal test clips")
    print(f"all: {table.alarm.mean():.3f} of {len(table)}")


if __name__ == "__main__":
    main()

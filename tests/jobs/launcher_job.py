"""Stand-ins for python and Slurm, and job scripts called with them: for the tests of launchers."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from conftest import ROOT, write_script
from settings.datasets import load_dataset

PYTHON = f"""#!/bin/bash
case "$1" in
  *missing_requirements.py) exit 0 ;;
  -m) exec {sys.executable} "$@" ;;
  src/train.py) ;;
  *) echo "$*" >> "$LOG"; exit 0 ;;
esac
echo "begin $OMP_NUM_THREADS ${{CUDA_VISIBLE_DEVICES:-none}} $*" >> "$LOG"
echo "seen by the log: $*"
case "$*" in *seed=${{SLOW:-none}}*)
  trap 'sleep 0.5; echo interrupted >> "$LOG"; exit 130' INT TERM
  for _ in {{1..600}}; do sleep 0.1; done ;;
esac
for _ in {{1..100}}; do [[ $(grep -c begin "$LOG") -lt ${{TOGETHER:-1}} ]] || break; sleep 0.1; done
status=0
case "$*" in
  *seed=2* | *seed=?2?*) status=${{STATUS:-0}} ;;
  *) [[ -z "${{STATUS:-}}" ]] || sleep 0.5 ;;   # seed 2 ends first
esac
echo "end $*" >> "$LOG"
exit $status
"""
SBATCH = """#!/bin/bash
printf '%q ' "$@" >> "$LOG" && echo >> "$LOG"
echo "$(grep -c -- --parsable "$LOG");the_cluster"
exit ${SBATCH_STATUS:-0}
"""

SQUEUE = """#!/bin/bash
case "$*" in
  *--jobs=5_1*) cat "$QUEUE" ;;
  *--jobs=5*) cat "$QUEUE" "$QUEUE" ;;   # every task of the array
  *) [[ ! -e "$QUEUE" ]] || cat "$QUEUE" ;;
esac
"""


def write_truth(data_dir: Path, dataset: str) -> None:
    """The lists of the true attributes that a dataset hides; no stand-in reads what is in them."""
    for machine in load_dataset(dataset).unlabeled:
        folder = data_dir / dataset / "ground_truth" / machine
        folder.mkdir(parents=True)
        (folder / "attributes_00_train_correspondence.csv").touch()


def make_job(tmp_path):
    stand_ins = {
        "python": PYTHON,
        "sbatch": SBATCH,
        "squeue": SQUEUE,
        "scancel": '#!/bin/bash\necho "scancel $*" >> "$LOG"\n',
        "scontrol": '#!/bin/bash\necho "scontrol $*" >> "$LOG"\n',
    }
    for name, script in stand_ins.items():
        write_script(tmp_path / "bin" / name, script)
    write_truth(tmp_path, "demo_unlabeled")

    def start(
        script: str = "jobs/exp/exp1.sh", *arguments: str, **environment: str
    ) -> subprocess.Popen:
        clean = {
            "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
            "LOG": f"{tmp_path}/log",
            "QUEUE": f"{tmp_path}/queue",
            "RESULTS_DIR": f"{tmp_path}/results",
            "LABEL_DIR": f"{tmp_path}/label",
            "DATA_DIR": str(tmp_path),
            "DATASETS": "demo",
            "METHODS": "na_1024",
            "SEEDS": "1 2 3",
            **environment,
        }
        return subprocess.Popen(
            [ROOT / script, *arguments],
            env=clean,
            start_new_session=True,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def finished(
        script: str = "jobs/exp/exp1.sh", *arguments: str, **environment: str
    ) -> subprocess.CompletedProcess:
        process = start(script, *arguments, **environment)
        out, err = process.communicate()
        return subprocess.CompletedProcess(script, process.returncode, out, err)

    finished.start = start
    finished.folder = tmp_path
    finished.log = lambda: (
        (tmp_path / "log").read_text().splitlines() if (tmp_path / "log").exists() else []
    )
    finished.submitted = lambda: [
        shlex.split(line) for line in finished.log() if "--parsable" in line
    ]
    return finished

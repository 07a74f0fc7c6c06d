"""benchmarks/gpu.py runs without a GPU too, with tiny sizes."""

import json
import os
import subprocess
import sys

from conftest import ROOT


def test_every_setting_is_measured(tmp_path):
    file = tmp_path / "gpu.json"
    command = [sys.executable, "benchmarks/gpu.py", "--parts", "card steps scoring", "--json", file]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    card, settings, scoring = json.loads(file.read_text()).values()
    assert card[0]["card"] == "CPU"
    assert [row["setting"] for row in settings][:3] == ["default", "no graph", "plain layers"]
    assert all(row["clips/s"] > 0 for row in settings)
    assert scoring[0]["scored clips"] == 80

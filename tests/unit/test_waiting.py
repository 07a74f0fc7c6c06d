"""How long OpenMP's threads wait in a loop for each other: unlabeledasd/__init__.py."""

import os
import subprocess
import sys

import pytest

SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.mark.parametrize(
    ("given", "turns"),
    [
        ({}, "30000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "passive"}, "0"),  # what GNU's library makes of it
    ],
)
def test_torch_loads_with_the_turns_set_at_import_unless_the_user_set_some(given, turns):
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", "import unlabeledasd, torch"],
        env={**environment, **given, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    if "GOMP" not in done.stderr:
        pytest.skip("torch uses another OpenMP library than GNU's")
    assert f"GOMP_SPINCOUNT = '{turns}'" in done.stderr

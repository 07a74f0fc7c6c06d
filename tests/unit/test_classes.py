"""Which classes src/learn.py --train takes from recordings."""

import numpy as np
import pandas as pd
import pytest

from unlabeledasd.detection.classes import choose_classes, find_clusters
from unlabeledasd.detection.learning import Learned


def learned(paths: list[str], machine: str | None = None, shift: float = 0) -> Learned:
    """Two windows of each recording; every other recording is `shift` away."""
    machines = [machine or path.split("/")[1] for path in paths]
    windows = pd.DataFrame({"recording": paths, "machine": machines}).loc[
        np.repeat(range(len(paths)), 2)
    ]
    embedding = np.random.default_rng(0).standard_normal((len(windows), 6, 4))
    embedding += shift * (np.arange(len(windows)) // 2 % 2)[:, None, None]
    return Learned(windows.reset_index(drop=True), embedding)


def official(machine: str, attribute: str, domain: str = "source", count: int = 4) -> list[str]:
    name = f"section_00_{domain}_train_normal_{{:04d}}_{attribute}.wav"
    return [f"/{machine}/train/{name.format(i)}" for i in range(count)]


PLAIN = [f"/fan/{i}.wav" for i in range(12)]


@pytest.mark.parametrize(
    ("paths", "machine", "classes", "why"),
    [
        (
            [f"/{m}/{i}.wav" for m in ("fan", "pump") for i in range(3)],
            None,
            {"fan", "pump"},
            "2 classes: machines",
        ),
        (
            official("fan", "a") + official("fan", "b") + official("pump", "a", "target"),
            None,
            {"fan-source-a", "fan-source-b", "pump-target-a"},
            "machines and conditions",
        ),
        (
            [f"/x/fan/{state}/{i}.wav" for state in ("idle", "load") for i in range(3)],
            "fan",
            {"fan-idle", "fan-load"},
            "conditions of fan",
        ),
    ],
)
def test_folders_and_names(paths, machine, classes, why):
    found = choose_classes(learned(paths, machine))
    assert {name.replace("%2D", "-") for name in found.names} == classes
    assert why in found.why
    assert not found.are_made


def test_a_folder_for_each_recording_is_no_condition():
    found = choose_classes(learned([f"/x/fan/{i}/a.wav" for i in range(12)], "fan"))
    assert set(found.names) == {"fan"}
    assert found.are_made


def test_clear_clusters_are_classes_and_others_are_not():
    found = choose_classes(learned(PLAIN, shift=9))
    assert not found.are_made
    assert found.names == [found.names[0], found.names[0], found.names[2], found.names[2]] * 6
    assert set(found.names) == {"fan-cluster-0", "fan-cluster-1"}
    found = choose_classes(learned(PLAIN))
    assert found.are_made
    assert set(found.names) == {"fan"}
    assert "transformations" in found.why


def test_a_single_recording_is_no_cluster():
    """Far away, but below LEAST_SHARE of 40; equal recordings cannot be divided."""
    far = np.random.default_rng(0).standard_normal((40, 5))
    far[0] += 1000
    assert find_clusters(far)[1] < 0.5
    assert find_clusters(np.ones((9, 5)))[1] == 0

"""Which training clips are set aside for calibration."""

import pandas as pd
import pytest
from omegaconf import OmegaConf

from conftest import compose, tiny
from settings.kept import deciding
from unlabeledasd.clips import CALIBRATION
from unlabeledasd.detection.calibration import as_training, set_aside
from unlabeledasd.errors import InputError


def clips(source: int, target: int, machine: str = "fan") -> pd.DataFrame:
    """Training clips, two attributes in turn, and a test clip."""
    domains = ["source"] * source + ["target"] * target
    rows = [(f"{machine}/{i}", machine, "train", d, str(i % 2)) for i, d in enumerate(domains)]
    rows.append((f"{machine}/test", machine, "test", "source", "0"))
    return pd.DataFrame(rows, columns=["path", "machine", "split", "domain", "attribute"])


@pytest.mark.parametrize(
    ("share", "rate", "count"), [(0.1, 0.1, 10), (0.05, 0.1, 9), (0.2, 0.05, 20), (0.25, 0.1, 25)]
)
def test_how_many(share, rate, count):
    table = clips(90, 10)
    found = set_aside(table, share, rate, seed=1)
    aside = found[found.split == CALIBRATION]
    assert len(aside) == count
    shares = aside.groupby(["domain", "attribute"]).size().reindex(
        pd.MultiIndex.from_product([["source", "target"], ["0", "1"]]), fill_value=0
    )  # fmt: skip
    expected = [0.45 * count, 0.45 * count, 0.05 * count, 0.05 * count]
    assert (abs(shares.to_numpy() - expected) < 1).all()
    pd.testing.assert_frame_equal(as_training(found), table)
    assert found.split.iloc[-1] == "test"
    pd.testing.assert_frame_equal(set_aside(table, share, rate, seed=1), found)
    assert not set_aside(table, share, rate, seed=2).equals(found)


def test_every_clip_has_the_same_chance():
    table, rounds = clips(17, 3), 400
    counts = sum(
        (set_aside(table, 0.1, 0.2, seed).split == CALIBRATION).to_numpy(int)
        for seed in range(rounds)
    )
    assert counts[-1] == 0
    deviation = (0.2 * 0.8 * rounds) ** 0.5  # 4 of 20 clips
    assert (abs(counts[:-1] - 0.2 * rounds) < 4 * deviation).all()


def test_too_few_are_refused_with_the_number_needed():
    table = pd.concat([clips(18, 2), clips(15, 2, "pump")], ignore_index=True)
    assert (set_aside(table[table.machine == "fan"], 0.1, 0.1, 0).split == CALIBRATION).sum() == 9
    with pytest.raises(InputError, match=r"pump has 17 training clips; .* at least 18 in all"):
        set_aside(table, 0.1, 0.1, seed=0)
    with pytest.raises(InputError, match="calibrate="):
        set_aside(table, 1.5, 0.1, seed=0)


def test_without_calibration_the_settings_are_those_of_runs_before(tmp_path):
    """So their hash is, and runs that began without these keys resume."""
    config = compose("train", tiny(tmp_path, tmp_path))
    now = deciding(config)
    assert not {"calibrate", "alarm_rate"} & set(now)
    before = {key: config[key] for key in config if key not in ("calibrate", "alarm_rate")}
    assert deciding(OmegaConf.create(before)) == now
    with_it = compose("train", tiny(tmp_path, tmp_path, "calibrate=0.1"))
    assert deciding(with_it)["calibrate"] == 0.1

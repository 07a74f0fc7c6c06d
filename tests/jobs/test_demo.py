"""Training pays on the demo data: the trained network against the same network as it was
initialised."""

from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

import train
from conftest import call, compose
from settings.build import build
from synthesis import write_demo
from unlabeledasd.evaluation import embed, score_machines
from unlabeledasd.metrics import challenge_score
from unlabeledasd.runs.folder import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    data_dir = tmp_path_factory.mktemp("demo")
    write_demo(data_dir)
    return data_dir


def score(run: Run, version: str) -> float:
    files = run.folder.glob(f"*/infer/version_{version}/*_test_result.csv")
    return challenge_score([dict(pd.read_csv(file).iloc[0]) for file in files])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_training_pays(seed, demo, tmp_path, monkeypatch):
    settings = ["dataset=demo", "method=subloss_0256_4096", f"seed={seed}"]
    settings += [f"data_dir={demo}", f"results_dir={tmp_path}"]
    config = compose("train", settings)
    OmegaConf.resolve(config)
    table, _, module, _ = train.prepare(config)
    embeddings = embed(module.extractor, Path(config.data.root), table.path.tolist())
    scorers = [build(node) for node in config.scorer.values()]
    initial = Run(tmp_path / "initial")
    score_machines(initial, "epoch0", "epoch0", table, embeddings, scorers)

    assert call(train, monkeypatch, *settings) == 0
    trained = score(Run(tmp_path / f"demo/subloss_0256_4096_{seed}"), "epoch_12_14_16")
    untrained = score(initial, "epoch0")
    print(f"seed {seed}: trained {trained:.4f}, untrained {untrained:.4f}")
    assert 0.6 <= trained <= 0.9
    assert trained >= untrained + 0.05

"""What README and docs show works as written."""

import re
import sys

import pandas as pd
import pytest

import infer
import train
from conftest import ROOT, call, tiny

DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("*/README.md"))]


def example_files() -> dict[str, str]:
    """Path below src/ -> content, of docs/extending.md."""
    text = (ROOT / "docs/extending.md").read_text()
    return dict(
        re.findall(r"`src/([\w/]+\.(?:py|yaml))`[^\n]*\n\n```\w+\n(.*?)```", text, re.DOTALL)
    )


@pytest.fixture
def extensions(tmp_path, monkeypatch):
    for name, content in example_files().items():
        file = tmp_path / "src" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    yield f"hydra.searchpath=[file://{tmp_path}/src/config]"
    for module in ("nearest", "softmax_loss"):
        sys.modules.pop(module, None)


def test_examples_of_extending(extensions, data_dir, tmp_path, monkeypatch):
    assert len(example_files()) == 7
    results = tmp_path / "results"
    for method in ("softmax_0256_4096", "subloss_0256_4096_wide"):
        overrides = [extensions, "score_epochs=[1]", "scorer=[target_kmeans_cos,nearest]"]
        assert call(train, monkeypatch, *tiny(data_dir, results, *overrides, method=method)) == 0
        scores = pd.read_csv(
            results / f"tiny/{method}_1/fan/infer/version_epoch1/epoch1_test_score.csv"
        )
        assert list(scores)[3:] == ["AS-TargetKmeansCos-16-plain", "AS-NearestCos"]
    run = f"run={results}/tiny/softmax_0256_4096_1"
    assert (
        call(
            infer, monkeypatch, run, "name=nearest", "scorer=nearest", "accelerator=cpu", extensions
        )
        == 0
    )


def test_dataset_example(extensions, monkeypatch, capsys, tmp_path):
    arguments = ["dataset=mine", "method=na_1024", "seed=1", f"data_dir={tmp_path}", extensions]
    assert call(train, monkeypatch, *arguments) == 1
    assert "mine/all/raw: no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_exist(document):
    text = document.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (document.parent / target).exists(), target
    for path in re.findall(
        r"\b((?:jobs|src|ensemble|preprocess|docs|tests)/[\w/]+\.(?:sh|py|md))\b", text
    ):
        assert (ROOT / path).is_file() or path.removeprefix("src/") in example_files(), path

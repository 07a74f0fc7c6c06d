"""What README and docs show works as written."""

import argparse
import os
import re
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
from scipy.io import wavfile

import infer
import train
from conftest import ROOT, call, compose, tiny

DOCUMENTS = [path for glob in ("*.md", "docs/*.md", "[a-z]*/README.md") for path in ROOT.glob(glob)]
DOCUMENTS = sorted(path for path in DOCUMENTS if path.name != "CHANGELOG.md")


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


def test_python_example(data_dir, tmp_path, monkeypatch):
    """The README's lines, with a run of the tiny machines in place of the demo's."""
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    arguments = tiny(data_dir, tmp_path, "score_epochs=[1]", method="na_4096")
    assert call(train, monkeypatch, *arguments) == 0
    example = example.replace("results/exp/demo/subloss_0256_4096_1", f"{tmp_path}/tiny/na_4096_1")
    recording = next((data_dir / "tiny/all/raw/fan/test").glob("*anomaly*"))
    monkeypatch.chdir(recording.parent)
    example = example.replace("recording.wav", recording.name).replace("gearbox", "fan")
    rate, samples = wavfile.read(recording)
    assert rate == 16000
    result = {"samples": samples}
    exec(example.replace("48000", "16000"), result)
    folder = tmp_path / "tiny/na_4096_1/fan/infer/version_epoch1"
    table = pd.read_csv(folder / "epoch1_test_score.csv").set_index("path").iloc[:, 2]
    assert result["score"] == pytest.approx(table[f"fan/test/{recording.name}"], abs=1e-6)
    last = example.replace("48000", "16000").splitlines()[-1]
    assert eval(last, result) == pytest.approx(result["score"], abs=1e-6)
    assert result["is_anomalous"] == (result["score"] > result["detector"].threshold("fan"))


def test_readme_links_to_every_page():
    text = (ROOT / "README.md").read_text()
    pages = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS if path.parent != ROOT]
    assert [page for page in pages if f"({page})" not in text] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_exist(document):
    text = document.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (document.parent / target).exists(), target
    for path in re.findall(
        r"\b((?:jobs|src|ensemble|preprocess|docs|tests)/[\w/]+\.(?:sh|py|md))\b", text
    ):
        assert (ROOT / path).is_file() or path.removeprefix("src/") in example_files(), path


# --- commands ------------------------------------------------------------------------------------

HYDRA = {"train": "train", "infer": "infer", "train_triplet": "triplet"}  # command -> its yaml
JOB = re.compile(r"(=.* |^)(jobs/exp|pseudoattr)/\w+\.sh|/\w+\.sh --help")
PROGRAM = re.compile(r"python ((?:src|benchmarks|ensemble|jobs/launch)/(\w+)\.py) (?!\.\.\.)")


@cache
def commands() -> list[str]:
    """Command lines of all documents, in code blocks and in running text, with their exports."""
    lines = {}
    for document in DOCUMENTS:
        text = document.read_text().replace("\\\n", "")
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
            exports = ""
            for line in map(str.strip, block.splitlines()):
                if line.startswith("export "):
                    exports += line.partition("#")[0] + "; "
                else:
                    lines[exports + line] = None
        text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        quoted = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]
        lines |= dict.fromkeys(code for code in quoted if " " in code)
    return [re.sub(r"<(\w+)>", r"\1", line) for line in lines]  # <data_dir> stands for a path


@pytest.mark.parametrize("line", list(filter(JOB.search, commands())))
def test_job_commands(line):
    """A job script prints its plan with the settings that a document shows."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = os.environ | {"DRY_RUN": "1", "DATA_DIR": "data", "SEEDS": "1", "PATH": path}
    done = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, env=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--help" in line or re.search(r"^(python|env|sbatch) ", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("line", list(filter(PROGRAM.search, commands())))
def test_program_commands(line, monkeypatch, extensions):
    """A program accepts the arguments that a document shows."""
    found = PROGRAM.search(line)
    file, name = found.groups()
    split = "arguments() { printf '%s\\0' \"$@\"; }; arguments " + line[found.end() :]
    shell = subprocess.run(["bash", "-c", split], capture_output=True, check=True)
    arguments = shell.stdout.decode().split("\0")[:-1]
    if name in HYDRA:
        assert compose(HYDRA[name], [*arguments, extensions])
        return

    class Accepted(Exception):
        pass

    parse = argparse.ArgumentParser.parse_args

    def parse_alone(self, args=None, namespace=None):
        parse(self, args, namespace)
        raise Accepted

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_alone)
    monkeypatch.setattr(sys, "argv", [file, *arguments])
    monkeypatch.syspath_prepend(str(ROOT / Path(file).parent))
    with pytest.raises(SystemExit if "--help" in arguments else Accepted) as stop:
        runpy.run_path(str(ROOT / file), run_name="__main__")
    assert getattr(stop.value, "code", 0) in (0, None)

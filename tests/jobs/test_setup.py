"""The environment: what is declared, what is pinned, and what jobs/setup.sh says when it cannot go
on."""

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
CODE_FOLDERS = ("src", "ensemble", "preprocess", "pseudoattr", "jobs")
SETUP_FILES = (
    "jobs/setup.sh",
    "jobs/environment.sh",
    "jobs/missing_requirements.py",
    "pyproject.toml",
    "requirements.txt",
)
# module: distribution
OTHER_NAMES = {
    "sklearn": "scikit-learn",
    "hydra": "hydra-core",
    "umap": "umap-learn",
    "yaml": "pyyaml",
    "triton": "torch",  # whose builds for a GPU bring it
}
SOURCED_ONLY = (
    "jobs/environment.sh",
    "jobs/exp/common.sh",
    "pseudoattr/labels.sh",
    *(f"jobs/launch/{launcher}.sh" for launcher in ("local", "ray", "slurm")),
)

spec = importlib.util.spec_from_file_location(
    "missing_requirements", ROOT / "jobs" / "missing_requirements.py"
)
missing_requirements = importlib.util.module_from_spec(spec)
spec.loader.exec_module(missing_requirements)


def declared(key):
    """{name: Requirement} of one list in pyproject.toml."""
    lines = missing_requirements.string_list((ROOT / "pyproject.toml").read_text(), key)
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def requirements_txt():
    lines = [
        line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()
    ]
    return [line for line in lines if line]


def run(*command, **kwargs):
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, **kwargs
    )


# --- what is declared ---


def test_pyproject_lists_are_read_as_toml_reads_them():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "pyproject.toml").read_text()
    assert missing_requirements.string_list(text, "dependencies") == project["dependencies"]
    for extra, lines in project["optional-dependencies"].items():
        assert missing_requirements.string_list(text, extra) == lines


def test_requirements_end_with_the_package_itself():
    assert requirements_txt()[-1] == "-e ."


def test_every_direct_dependency_is_pinned_within_its_range():
    ranges = declared("dependencies") | declared("export") | declared("dev")
    pins = [Requirement(line) for line in requirements_txt()[:-1]]
    assert {canonicalize_name(pin.name) for pin in pins} == set(ranges)
    for pin in pins:
        (specifier,) = pin.specifier
        assert specifier.operator == "==", pin
        assert specifier.version in ranges[canonicalize_name(pin.name)].specifier, pin


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_each_python_gets_one_pin_per_dependency(python):
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    pins = [Requirement(line) for line in requirements_txt()[:-1]]
    names = [pin.name for pin in pins if not pin.marker or pin.marker.evaluate(environment)]
    assert sorted(names) == sorted({pin.name for pin in pins})


def third_party_imports(folder):
    """{top-level module: a file that imports it}, without the standard library and own modules."""
    files = sorted((ROOT / folder).rglob("*.py"))
    own = {
        path.stem
        for own_folder in CODE_FOLDERS
        for path in (ROOT / own_folder).iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    modules = {}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            else:
                continue
            modules |= {name.split(".")[0]: file.relative_to(ROOT) for name in names}
    return {
        name: file for name, file in modules.items() if name not in own | sys.stdlib_module_names
    }


def test_every_import_is_a_declared_dependency():
    text = (ROOT / "pyproject.toml").read_text()
    tables = text.split("[project.optional-dependencies]")[1].split("\n[")[0]
    extras = [line.split(" =")[0] for line in tables.splitlines() if line.endswith("= [")]
    names = set().union(*(declared(key) for key in ["dependencies", *extras] if key != "dev"))
    for folder in CODE_FOLDERS:
        for module, file in third_party_imports(folder).items():
            name = canonicalize_name(OTHER_NAMES.get(module, module))
            assert name in names, f"{file} imports {module}, which pyproject.toml does not declare"


# --- missing_requirements.py ---


def test_this_environment_lacks_nothing():
    assert list(missing_requirements.missing(["export", "dev"])) == []


@pytest.mark.parametrize(
    ("torch", "torchaudio", "pair"),
    [
        ("2.11.0", "2.11.0", True),
        ("2.8.0+cu126", "2.8.0+cu126", True),
        ("2.7.1", "2.7.0a0+1a2b3c4", True),  # a vendor's own build
        ("2.8.0", "2.9.0", False),
        ("2.11.0+cpu", "2.11.0", False),  # does not load: PyPI's torchaudio wants CUDA libraries
        ("2.13.0", "2.13.0", False),  # out of range
    ],
)
def test_torch_and_torchaudio_must_be_a_pair(monkeypatch, torch, torchaudio, pair):
    installed = {"torch": torch, "torchaudio": torchaudio}
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: installed.get(name) or version(name))
    lacking = list(missing_requirements.missing())
    assert (lacking == []) == pair
    assert all("torch" in line for line in lacking)


# --- the scripts ---


@pytest.fixture
def checkout(tmp_path):
    """A copy without venv/, in a path with a space, and a PATH on which there is no Python."""
    root = tmp_path / "a b"
    (root / "jobs").mkdir(parents=True)
    for file in SETUP_FILES:
        shutil.copy(ROOT / file, root / file)
    (root / "bin").mkdir()
    for tool in ("bash", "dirname", "grep", "rm", "sed", "uname"):
        (root / "bin" / tool).symlink_to(shutil.which(tool))
    return root


def fake_python(checkout, name, version, ensurepip):
    """A `python` of which setup.sh learns its version, and whether it can make virtual
    environments."""
    file = checkout / "bin" / name
    cases = f"*version*) echo {version};; *ensurepip*) exit {1 - ensurepip};; *) exit 1;;"
    file.write_text(f'#!/bin/sh\ncase "$2" in {cases} esac\n')
    file.chmod(0o755)


def setup(checkout, **environment):
    environment = {"PATH": str(checkout / "bin"), "HOME": str(checkout), **environment}
    return run("bash", str(checkout / "jobs" / "setup.sh"), env=environment, cwd=checkout.parent)


def assert_one_line(result, *words):
    """One line of explanation on stderr, and exit status 1."""
    assert result.returncode == 1, result
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert all(word in result.stderr for word in words), result.stderr
    assert result.stdout == ""


def test_too_old_python_is_told_what_to_do(checkout):
    fake_python(checkout, "python3", "3.8", ensurepip=True)
    fake_python(checkout, "python", "2.7", ensurepip=False)
    assert_one_line(setup(checkout), "3.10 to 3.13", "not 3.8", "PYTHON=")
    assert not (checkout / "venv").exists()


def test_no_python_is_told_what_to_do(checkout):
    assert_one_line(setup(checkout), "3.10 to 3.13", "PYTHON=")


def test_a_named_python_is_the_only_one_tried(checkout):
    fake_python(checkout, "python3", "3.11", ensurepip=True)
    assert_one_line(setup(checkout, PYTHON="python2"), "3.10 to 3.13")


def test_python_without_ensurepip_is_told_which_package_to_install(checkout):
    fake_python(checkout, "python3", "3.12", ensurepip=False)
    assert_one_line(setup(checkout), "apt install python3.12-venv")
    assert not (checkout / "venv").exists()


def test_an_active_environment_that_has_everything_is_used(checkout):
    (checkout / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (checkout / "bin" / "python").chmod(0o755)
    result = setup(checkout)
    assert result.returncode == 0, result
    assert result.stdout == f"environment: {checkout}/bin/python (active)\n"
    assert not (checkout / "venv").exists()


def test_another_build_of_torch_does_not_overwrite_venv(checkout):
    (checkout / "venv").mkdir()
    assert_one_line(setup(checkout, TORCH_INDEX="https://example.org/whl/cpu"), "rm -r", "venv")
    assert (checkout / "venv").exists()


def test_jobs_name_the_setup_script_when_there_is_no_environment(checkout):
    command = (
        'set -euo pipefail; source "$1/jobs/environment.sh"; use_environment; echo not reached'
    )
    result = run("bash", "-c", command, "-", str(checkout), env={"PATH": str(checkout / "bin")})
    assert_one_line(result, "bash jobs/setup.sh")


def test_environment_puts_this_checkout_first(checkout):
    command = 'source "$1/jobs/environment.sh"; use_environment; echo "${PYTHONPATH}"'
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    result = run(
        "bash", "-c", command, "-", str(checkout), env={"PATH": path, "PYTHONPATH": "/other"}
    )
    assert result.stdout == f"{checkout}/src:/other\n"


scripts = [script for folder in (".ci", *CODE_FOLDERS) for script in (ROOT / folder).rglob("*.sh")]
scripts = sorted({str(script.relative_to(ROOT)) for script in scripts} - set(SOURCED_ONLY))


@pytest.mark.parametrize("script", scripts)
def test_help_is_answered_without_any_environment(script, tmp_path):
    result = run("bash", str(ROOT / script), "--help", cwd=tmp_path, env={"PATH": "/usr/bin:/bin"})
    assert result.returncode == 0, result.stderr
    assert script.split("/")[-1] in result.stdout, "the usage note has an example"
    assert list(tmp_path.iterdir()) == []

"""Print what this Python lacks of pyproject.toml's ranges, one requirement a line.

    python jobs/missing_requirements.py [dev] [export]

dev: the test tools too; export: ONNX too. Reads the metadata of installed packages and imports none
of them: about 0.1 s.
Exit status: 0 nothing, 1 something.
"""

import ast
import re
import sys
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def string_list(text, key):
    """A list of strings in pyproject.toml, in TOML as in Python (which has no tomllib in 3.10)."""
    return ast.literal_eval(re.search(rf"^{key} = (\[.*?^\])", text, re.MULTILINE | re.DOTALL)[1])


def build(version):
    """What torch and torchaudio must have in common: "2.11", "2.11+cpu"."""
    official = re.fullmatch(r"cpu|cu\d+|rocm[\d.]+|xpu", version.local or "")
    return f"{version.major}.{version.minor}" + (f"+{version.local}" if official else "")


def missing(extras=()):
    """The requirements of the package and its extras that the running Python does not satisfy."""
    from importlib import metadata

    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    text = PYPROJECT.read_text(encoding="utf-8")
    pythons = re.search(r'^requires-python = "(.*)"', text, re.MULTILINE)[1]
    if f"{sys.version_info.major}.{sys.version_info.minor}" not in SpecifierSet(pythons):
        yield f"Python {pythons}"
    builds = {}
    for line in [line for key in ("dependencies", *extras) for line in string_list(text, key)]:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield line
            continue
        if requirement.name in ("torch", "torchaudio"):
            builds[requirement.name] = build(Version(version))
        # prereleases: some vendors ship torch as 2.7.0a0+...
        if not requirement.specifier.contains(version, prereleases=True):
            yield f"{line} (not {version})"
    if len(set(builds.values())) > 1:
        yield "torch and torchaudio of the same build (not " + " and ".join(builds.values()) + ")"


if __name__ == "__main__":
    try:
        lacking = list(missing(sys.argv[1:]))
    except ImportError as error:  # an old Python, or one with nothing installed
        lacking = [str(error)]
    if lacking:
        print("\n".join(lacking))
        sys.exit(1)

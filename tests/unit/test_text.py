"""Names stay text whatever they look like: what Hydra parses is compared with what was given."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from settings.text import as_text, how_to_quote

NAMES = [
    *("2024", "2024_06_01", "1e3", "-0", ".5", "null", "true", "NaN", "inf", "off", "None"),
    *("a=b", "a#b", "a,b", "[a]", "{a: b}", "a:b", "it's", 'a"b', "a b", " a ", "50%", "(x)"),
    *("ü", "日本", "a/b.c", "fan_01", "", "?", "*", "!x", "&", "a'b\"c", "x=", "=x"),
]


def parsed(override: str):
    return OverridesParser.create().parse_override(override).value()


@pytest.mark.parametrize("key", ["data_dir", "dataset.name", "machine", "run", "name", "+run_dir"])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_what_was_given(key, name):
    assert parsed(as_text(f"{key}={name}")) == name


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=8))
@example("'")
def test_any_name(name):
    quoted = len(name) > 1 and name[0] == name[-1] and name[0] in "'\""
    if "\\" not in name and "${" not in name and not quoted:  # which are Hydra's to read
        assert str(parsed(as_text(f"name={name}"))) == name


def test_machines_of_a_list():
    assert parsed(as_text("dataset.hide=[2024_06, fan,true]")) == ["2024_06", "fan", "true"]
    assert parsed(as_text("dataset.hide=[]")) == []
    assert parsed(as_text("dataset.hide=all")) == "all"


def test_a_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/of=mine")
    assert parsed(as_text("data_dir=~/data")) == "/home/of=mine/data"
    assert parsed(as_text("name=~/data")) == "~/data"
    assert str(Path("~/data").expanduser()) == "/home/of=mine/data"


@pytest.mark.parametrize(
    "override",
    ["seed=1", "score_epochs=[1,2]", "~trainer", "check=true", "data_dir='a b'", "name=${seed}",
     "run_dir=a\\=b", "--help", "dataset=dcase2024", 'machine="x"'],
)  # fmt: skip
def test_what_is_not_a_name_is_left_to_hydra(override):
    assert as_text(override) == override


@pytest.mark.parametrize("value", ["a=b", "it's {", "x}"])
def test_the_spelling_that_a_message_shows_is_parsed(value):
    spelling = shlex.split(how_to_quote(f"dataset.teacher={value}").rpartition("quotes: ")[2])
    assert parsed(*spelling) == value

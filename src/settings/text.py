"""Text stays text: Hydra's grammar would read 2024_06_01 as a number and a=b not at all.

Values of settings that name things are put in Hydra's quotes before Hydra parses them.
"""

import re
import shlex
from pathlib import Path

# Settings that name a folder, and those that name something else.
FOLDERS = {"data_dir", "results_dir", "label_dir", "run_dir", "run", "root", "folder", "weights"}
NAMES = {"name", "machine", "job_name", *FOLDERS}
LISTS = {"development", "evaluation", "unlabeled", "hide"}  # of machines
PLAIN = re.compile(r"(?!\.\d)[A-Za-z/._][A-Za-z0-9/._-]*")
WORDS = {"null", "true", "false", "nan", "inf", "on", "off", "yes", "no"}  # of Hydra or YAML


def as_text(override: str) -> str:
    """The override key=value in quotes where the key names things and Hydra needs them.

    What is in quotes already stays, and so does what refers to another setting (${...}) or has
    Hydra's escapes. ~/ at the beginning of a folder is the home folder.
    """
    key, equals, value = override.partition("=")
    name = key.lstrip("+").rpartition(".")[2]
    if not equals or not re.fullmatch(r"\+{0,2}[\w.@]+", key):
        return override
    if name in FOLDERS and value.startswith("~/"):
        value = str(Path(value).expanduser())
    if name in NAMES:
        return f"{key}={in_quotes(value)}"
    if name in LISTS and re.fullmatch(r"\[[^\[\]'\"]*\]", value):
        return f"{key}=[{','.join(in_quotes(part.strip()) for part in value[1:-1].split(','))}]"
    return override


def in_quotes(value: str) -> str:
    """`value`, in Hydra's quotes if it is no plain word or path."""
    plain = not value or (PLAIN.fullmatch(value) and value.lower() not in WORDS)
    of_hydra = re.fullmatch(r"'.*'|\".*\"", value) or "${" in value or "\\" in value
    return value if plain or of_hydra else quoted(value)


def quoted(value: str) -> str:
    return "'" + value.replace("'", r"\'") + "'"


def how_to_quote(override: str) -> str:
    """What to say about an override that Hydra cannot parse."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override}: not a setting; settings are key=value"
    text = f"{key}={quoted(value)}"
    spelling = shlex.quote(text) if re.search(r'["$`\\!]', text) else f'"{text}"'
    return f"{key}={value}: not in Hydra's grammar; as text it needs quotes: {spelling}"

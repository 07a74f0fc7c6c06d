"""What the place and the name of a clip state: names of DCASE Challenge Task 2, and free ones.

The form of the challenge is
`section_<NN>_<source|target>_<train|test>_<normal|anomaly>_<index>_<attributes>.wav`; official test
clips of evaluation machines are bare, `section_<NN>_<index>.wav`, until ground truth is added.
Those of 2021 state their domain, `section_<NN>_<source|target>_test_<index>.wav`, and lie in
source_test/ and target_test/. The names of 2020 are `<normal|anomaly>_id_<NN>_<index>.wav`, bare
`id_<NN>_<index>.wav`: a section, no domain, no attribute.
Of a free name a condition is never guessed: `anomaly_3` and `pump normal 12` state one;
`before_anomaly_2`, `ab-normal_3` and `anomaly_free_1` do not.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from unlabeledasd.errors import InputError, printable

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "test")
SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "source_test", "target_test")}
UNKNOWN = "unknown"  # domain, condition or attribute of a clip without ground truth
NO_ATTRIBUTE = "noAttribute"

FULL_NAME = re.compile(
    r"section_(?P<section>\d{2})_(?P<domain>source|target)_(?P<split>train|test)"
    r"_(?P<condition>normal|anomaly)_(?P<index>\d+)(?:_(?P<attribute>.+))?"
)
BARE_NAME = re.compile(r"section_(?P<section>\d{2})_(?P<index>\d+)")
BARE_NAME_2021 = re.compile(
    r"section_(?P<section>\d{2})_(?P<domain>source|target)_test_(?P<index>\d+)"
)
FULL_NAME_2020 = re.compile(r"(?P<condition>normal|anomaly)_id_(?P<section>\d{2})_(?P<index>\d{8})")
BARE_NAME_2020 = re.compile(r"id_(?P<section>\d{2})_(?P<index>\d{8})")
FORM = "section_<NN>_<source|target>_<train|test>_<normal|anomaly>_<index>_<attributes>.wav"
GRAMMARS = {
    "dcase": FORM,
    "dcase2021": FORM,
    "dcase2020": "<normal|anomaly>_id_<NN>_<index>.wav",
    "free": "any name",
}
FORMS = {  # full and bare names; those of the other grammars are of 2022 on
    "dcase2020": (FULL_NAME_2020, BARE_NAME_2020),
    "dcase2021": (FULL_NAME, BARE_NAME_2021),
}
SECTION = re.compile(r"(?:^|_)(?:section|id)_(\d{2})(?=_)")
CONDITION_WORDS = {
    **dict.fromkeys(["normal", "normals"], "normal"),
    **dict.fromkeys(["anomaly", "anomalies", "anomalous", "abnormal"], "anomaly"),
}
# Words that may stand next to a condition without changing what it says.
PLAIN = """audio ch channel clip clips data file files id machine mic part rec record recording
recordings sample samples section segment sound sounds source take target test train wav"""
PLAIN_WORDS = frozenset(re.findall("[a-z]+", PLAIN))
COPY = r"copy|kopie|copie|copia|kopia|conflict"  # what file managers write, in their languages
COPY_SUFFIX = re.compile(
    rf"(?:\s*\((?:\d+|[^()]*(?:{COPY})[^()]*)\)|[\s_-]+(?:{COPY})(?:[\s_-]*\d+)?)+", re.IGNORECASE
)


@dataclass(frozen=True)
class Clip:
    """What the place and the name of a clip state."""

    machine: str
    section: str
    domain: str  # source, target or unknown
    split: str  # train or test
    condition: str  # normal, anomaly or unknown
    attribute: str  # all after the index, e.g. "vel_1000_loc_A"; noAttribute where it is hidden
    index: str = ""

    @property
    def name(self) -> str:
        """The official name of 2021 on, without suffix; bare where the condition is unknown."""
        if self.condition == UNKNOWN:
            domain = "" if self.domain == UNKNOWN else f"{self.domain}_test_"
            return f"section_{self.section}_{domain}{self.index}"
        head = f"section_{self.section}_{self.domain}_{self.split}_{self.condition}_{self.index}"
        return f"{head}_{self.attribute}"


def parse_clip(path: str | Path, grammar: str = "dcase") -> Clip:
    """Read `<machine>/<split>/<name>`, relative to the data root or absolute, as a Clip.

    Folders between the split and the name may state the condition (test/anomaly/), and must agree
    with the name. What a file manager adds to the name of a copy, " (1)", is no part of it.
    grammar "dcase" refuses other names than the challenge's since 2022, "dcase2020" and "dcase2021"
    others than those of these years. Grammar "free" takes any name: a clip in train/ is normal,
    unless its folders or name state an anomaly; a clip in test/ has the condition that they state,
    or an unknown one (stated_condition). Both are of the source domain, as are all clips of 2020.
    InputError names the path.
    """
    clip = PurePosixPath(composed(str(path)))
    if printable(clip) != str(clip):
        raise InputError(
            f"{clip}: its name is no UTF-8; rename it: convmv -f latin1 -t utf8 -r --notest FOLDER"
        )
    machine, split, folders = place(clip, grammar)
    stem = without_copy_suffix(clip.stem)
    full, bare = FORMS.get(grammar, (FULL_NAME, BARE_NAME))
    if match := full.fullmatch(stem):
        stated = match.groupdict()
        if stated.get("split", split) != split:
            raise InputError(f"{clip}: the name says {match['split']}, the folder says {split}")
        condition = read_condition(clip, machine, folders, match["condition"])
        domain, attribute = stated.get("domain", "source"), stated.get("attribute") or NO_ATTRIBUTE
        return Clip(machine, match["section"], domain, split, condition, attribute, match["index"])
    match = bare.fullmatch(stem)
    if match and split == "test" and not folders:
        of_year = "source" if grammar == "dcase2020" else UNKNOWN
        domain = match.groupdict().get("domain", of_year)
        return Clip(machine, match["section"], domain, split, UNKNOWN, UNKNOWN, match["index"])
    if grammar != "free":
        raise InputError(
            f"{clip}: not a DCASE clip name, {GRAMMARS[grammar].replace('<train|test>', split)} "
            "(own recordings with other names: dataset=folder)"
        )
    condition = read_condition(clip, machine, folders, stem)
    if split == "train" and condition == UNKNOWN:
        condition = "normal"
    return Clip(machine, "00", "source", split, condition, NO_ATTRIBUTE, stem)


def place(path: PurePosixPath, grammar: str) -> tuple[str, str, tuple[str, ...]]:
    """-> machine, split, and the folders below the split in which a clip lies.

    Of several folders train or test in a relative path the first one is the split; in an absolute
    path, which may have such folders above the machine's, the last one that lies in no other.
    """
    folders = path.parts[:-1]
    if grammar == "dcase2021" and path.parent.name in SPLIT_FOLDERS["test"][1:] and folders[1:]:
        return folders[-2], "test", ()
    splits = [i for i in range(1, len(folders)) if folders[i] in SPLITS]
    if not splits:
        raise InputError(f"{path}: a clip lies in <machine>/train/ or <machine>/test/")
    if path.is_absolute():
        splits = [i for i in splits if folders[i - 1] not in SPLITS][-1:] or splits
    i = splits[0]
    return folders[i - 1], folders[i], folders[i + 1 :]


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC): macOS writes it in the other one."""
    return unicodedata.normalize("NFC", name)


def without_copy_suffix(stem: str) -> str:
    """The name of which a file manager made this copy: "a" of "a (1)", "a - Copy", "a_copy 2"."""
    ends = [match.start() for match in COPY_SUFFIX.finditer(stem) if match.end() == len(stem)]
    return stem[: ends[0]] if ends and ends[0] else stem


def words_of(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.casefold())


def stated_condition(text: str, machine: str) -> str | None:
    """The condition that the name of a file or folder states; None: it has no word of a condition.

    "unknown" where it has, but is ambiguous: two conditions, a word besides CONDITION_WORDS,
    PLAIN_WORDS, single letters and those of `machine`, a prefix with a hyphen (a-normal), or a
    character such as = or ?.
    """
    words = words_of(text)
    found = {CONDITION_WORDS[word] for word in words if word in CONDITION_WORDS}
    if not found:
        return None
    plain = {*CONDITION_WORDS, *PLAIN_WORDS, *words_of(machine)}
    prefixed = re.findall(r"([^\W\d_]+)-(?=[^\W\d_])", text.casefold())
    strange = (
        any(len(word) > 1 and word not in plain for word in words)
        or any(len(prefix) == 1 for prefix in prefixed)
        or re.search(r"[^\w\s.,#@()\[\]-]", text)
    )
    return UNKNOWN if strange or len(found) > 1 else found.pop()


def read_condition(path: object, machine: str, folders: Iterable[str], stem: str) -> str:
    """The condition of a clip by its `folders` below the split, else by its name; may be unknown.

    An ambiguous folder or name is passed over. InputError where two of them contradict each other.
    """
    texts = {f"the folder {name}": name for name in folders} | {"the name": stem}
    stated = {place: stated_condition(text, machine) for place, text in texts.items()}
    clear = {place: said for place, said in stated.items() if said not in (None, UNKNOWN)}
    if len(set(clear.values())) > 1:
        said = ", ".join(f"{place} says {condition}" for place, condition in clear.items())
        raise InputError(f"{path}: {said}; a clip has one condition")
    return next(iter(clear.values()), UNKNOWN)


def bare_name(stem: str) -> re.Match | None:
    """The groups of an official name of any year that states no condition; None: of others."""
    forms = (BARE_NAME, BARE_NAME_2021, BARE_NAME_2020)
    return next((match for form in forms if (match := form.fullmatch(stem))), None)


def full_name(stem: str) -> re.Match | None:
    """The groups of an official name of any year that states a condition; None: of others."""
    return FULL_NAME.fullmatch(stem) or FULL_NAME_2020.fullmatch(stem)


def unit_name(machine: str, section: str) -> str:
    """What a section is called where a machine's folder has several: each is a machine then."""
    return f"{machine}_section_{section}"


def folder_of(unit: str) -> str:
    """The folder of a machine or of one of its sections."""
    return re.sub(r"_section_\d{2}$", "", unit)


def section_of(path: str) -> str | None:
    """The section that the official name of a clip states, of any year."""
    match = SECTION.search(path.rpartition("/")[2])
    return match[1] if match else None


def name_notes(table: "pd.DataFrame", grammar: str = "free") -> list[str]:
    """Lines on what names in a table of clips state unclearly, each kind once with its count."""
    found: dict[str, list[str]] = {}
    rows = zip(table.path, table.machine, table.split, table.condition, strict=True)
    for path, machine, split, condition in rows:
        for text in unclear(PurePosixPath(path), machine, split, condition, grammar):
            found.setdefault(text, []).append(path)
    return [
        f"note: {paths[0]}: {text}" + f" ({len(paths)} such clips)" * (len(paths) > 1)
        for text, paths in found.items()
    ]


def unclear(
    path: PurePosixPath, machine: str, split: str, condition: str, grammar: str
) -> Iterator[str]:
    """What the name of a clip states unclearly, and what is made of it."""
    stem = without_copy_suffix(path.stem)
    if stem != path.stem:
        yield "named like a copy; the suffix is no part of the attribute"
    if grammar != "free" or FULL_NAME.fullmatch(stem) or BARE_NAME.fullmatch(stem):
        return
    if stem.lower().startswith("section_"):
        yield (
            "its name begins like a DCASE name, but does not follow the form; taken as of the "
            "source domain, without attribute"
        )
    if split == "test" and condition == UNKNOWN:
        yield (
            "neither its folder nor its name states normal or anomaly clearly; it gets a score, "
            "but no metrics (test/normal/ and test/anomaly/ state it)"
        )
    texts = (*place(path, grammar)[2], stem)
    if split == "train" and UNKNOWN in (stated_condition(text, machine) for text in texts):
        yield "its folder or name states no condition clearly; used as a normal training clip"

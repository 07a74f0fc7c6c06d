"""What folders and names of free form say about a clip: its condition, where that is unambiguous.

A condition is never guessed. `anomaly_3` and `pump normal 12` say one; `before_anomaly_2`,
`ab-normal_3` and `anomaly_free_1` do not: a word next to the condition's may turn it around.
"""

import re
from collections.abc import Iterable

from unlabeledasd.errors import InputError

UNKNOWN = "unknown"  # domain, condition or attribute of a clip without ground truth
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

"""What the commands share: building from the Hydra configuration, with errors in one line."""

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from settings.text import as_text, how_to_quote
from unlabeledasd.errors import InputError, input_error, one_line_errors

CONFIG_PATH = str(Path(__file__).resolve().parents[1] / "config")


def build(node: DictConfig, **runtime: Any) -> Any:
    """Call the node's `_target_` with its settings, as plain lists and dicts, and `runtime`.

    InputError names the setting whose value is not allowed by its full key.
    """
    with naming_settings(node):
        return hydra.utils.instantiate(node, _partial_=True, _convert_="all")(**runtime)


@contextmanager
def naming_settings(node: DictConfig) -> Iterator[None]:
    """Report what the node's class says about its settings as InputError.

    A message that begins with "name=" of one of them then begins with the key that a person set:
    "n_ffts=[1]: ..." becomes "model.extractor.n_ffts=[1]: ...".
    """
    try:
        yield
    except Exception as error:  # libraries have their own classes for values that they refuse
        if found := input_error(error):
            raise InputError(with_key(str(found), node)) from error.__cause__
        if isinstance(error, ValueError) or type(error).__name__ == "MisconfigurationException":
            raise InputError(f"{node['_target_']}: {error}") from error.__cause__
        raise


def with_key(message: str, node: DictConfig) -> str:
    """The message with the full key of the setting that it begins with, if that is clear."""
    name, equals, rest = message.partition("=")
    raw = OmegaConf.to_container(node, resolve=False)
    keys = set(keys_named(name, raw, node._get_full_key(""))) if equals else set()
    return f"{keys.pop()}={rest}" if len(keys) == 1 else message


def keys_named(name: str, raw: Any, key: str) -> Iterator[str]:
    """The full keys of all settings `name` below `raw`; of a link, the key that it leads to."""
    for child, value in raw.items() if isinstance(raw, dict) else ():
        place = f"{key}.{child}".lstrip(".")
        if child == name:
            yield linked_key(value) or place
        yield from keys_named(name, value, place)


def linked_key(raw: Any) -> str | None:
    """ "${dataset.batch_size}" -> dataset.batch_size; None for a value."""
    link = re.fullmatch(r"\$\{(\w[\w.]*)\}", str(raw))
    return link[1] if link else None


def build_scorers(config: DictConfig) -> list:
    """The scorers of a configuration, the one that is averaged over the epochs in front."""
    from unlabeledasd.scoring import default_first

    return [build(node) for node in default_first(config.scorer, config.average).values()]


def nodes(config: Any, key: str = "") -> Iterator[tuple[str, dict]]:
    """Every (key, node) of a plain configuration that has a `_target_`."""
    if isinstance(config, list):
        config = dict(enumerate(config))
    if isinstance(config, dict):
        if "_target_" in config:
            yield key, config
        for name, value in config.items():
            yield from nodes(value, f"{key}.{name}".lstrip("."))


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested dicts and lists -> {"model.extractor.n_ffts.0": 4096, ...}."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {key: value}
    items = {}
    for name, child in value.items():
        items |= flat(child, f"{key}.{name}".lstrip("."))
    return items


@contextmanager
def report_errors() -> Iterator[None]:
    """one_line_errors for Hydra's errors too.

    It goes around the task function, so that Hydra does not report our errors in its own way, and
    around the call of hydra.main.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # so that Hydra's own errors reach us
    with one_line_errors(HydraException, OmegaConfBaseException, OSError):
        try:
            yield
        except OverrideParseException as error:
            raise InputError(how_to_quote(error.override)) from None


def launch(
    main: Callable[[], None], help_text: str, groups: Sequence[str] = ("dataset", "method")
) -> None:
    """Call a hydra.main function; for --help print `help_text` and the choices of `groups`.

    Hydra's own --help needs every choice to be made first.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(help_text.strip())
        for group in groups:
            names = sorted(p.stem for p in Path(CONFIG_PATH, group).glob("*.yaml"))
            print(f"\n{group}:", *(name for name in names if name != "base"))
        return
    sys.argv[1:] = map(as_text, sys.argv[1:])
    with report_errors():
        main()

"""What the entry points share: reading, checking and building from the Hydra configuration; errors in one line."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from unlabeledasd.errors import InputError, one_line_errors

CONFIG_PATH = str(Path(__file__).resolve().parents[1] / "config")


def build(node: DictConfig, **runtime: Any) -> Any:
    """Call the node's `_target_` with its settings, as plain lists and dicts, and the runtime arguments."""
    try:
        return hydra.utils.instantiate(node, _partial_=True, _convert_="all")(**runtime)
    except Exception as error:  # what libraries say of values that they do not take
        if isinstance(error, ValueError) or type(error).__name__ == "MisconfigurationException":
            told = (
                error
                if isinstance(error, InputError)
                else InputError(f"{node['_target_']}: {error}")
            )
            raise told from error.__cause__
        raise


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
    return {
        k: v
        for name, child in value.items()
        for k, v in flat(child, f"{key}.{name}".lstrip(".")).items()
    }


def tell_errors() -> AbstractContextManager:
    """one_line_errors for Hydra's errors too. Goes around the task function, so that Hydra does not report our
    errors in its own way, and around the call of hydra.main."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # so that Hydra's own errors reach us
    return one_line_errors(HydraException, OmegaConfBaseException, OSError)


def launch(
    main: Callable[[], None], help_text: str, groups: Sequence[str] = ("dataset", "method")
) -> None:
    """Call a hydra.main function; --help is ours, since Hydra's own needs every choice to be made first, and lists
    the choices of `groups`."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(help_text.strip())
        for group in groups:
            names = sorted(p.stem for p in Path(CONFIG_PATH, group).glob("*.yaml"))
            print(f"\n{group}:", *(name for name in names if name != "base"))
        return
    with tell_errors():
        main()

"""The flag ``--config`` of training commands: a config by name or by path."""

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from avjax.errors import InputError

_PACKAGE = Path(__file__).resolve().parents[1]
CONFIGS = _PACKAGE / "configs"  # in a wheel
if not CONFIGS.is_dir():
    CONFIGS = _PACKAGE.parent / "configs"  # in a checkout


def define(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines ``--config``, and the ``--config.KEY`` overrides in ``argv``."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        f"Config file, or one of the names {', '.join(by_name())}. --config.KEY=VALUE overrides a "
        "value, such as --config.batch_size=16 --config.data.fold=msaf6/0. The named files lie in "
        f"{CONFIGS} and common.py there explains the keys.",
        flag_values=values,
        sys_argv=argv,
    )
    values["config"].parser = _ConfigParser("config")


def by_name() -> dict[str, Path]:
    """Returns the config files that avjax carries, by name."""
    files = {file.stem: file for file in sorted(CONFIGS.glob("*.py"))}
    files.pop("common")
    return files


def read(values: flags.FlagValues) -> dict[str, Any]:
    """Returns the config's tree of keys, with the overrides.

    Raises:
      InputError: no config is named.
    """
    if values.config is None:
        raise InputError(f"--config is missing; {_choices()}")
    return values.config.to_dict()


def _choices() -> str:
    return f"give a config file, or one of the names {', '.join(by_name())}"


class _ConfigParser(ConfigFileFlagParser):
    """Loads a config by name or path."""

    def parse(self, path: str) -> Any:
        """Returns what ``get_config()`` returns; ``NAME:TEXT`` passes it a text.

        Raises:
          InputError: the file cannot be read.
        """
        name, *text = path.split(":", 1)
        file = by_name().get(name, Path(name))
        try:
            file.open("rb").close()
        except OSError as error:
            raise InputError(
                f"the config file {name} cannot be read ({error.strerror}); {_choices()}"
            ) from error
        with _configs_package(file.parent):
            return super().parse(":".join([str(file), *text]))


@contextlib.contextmanager
def _configs_package(folder: Path) -> Iterator[None]:
    """Lets a config file import others: ``from configs import common``.

    ``configs`` stands for the file's folder, then ``configs`` in the current folder, then the
    configs that avjax carries. An installed package of that name, which Python would take, is
    hidden.
    """

    def loaded() -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] == "configs"]

    spec = ModuleSpec("configs", None, is_package=True)
    folders = [folder.resolve(), Path.cwd() / "configs", CONFIGS]
    spec.submodule_search_locations = [str(path) for path in folders]
    before = {name: sys.modules.pop(name) for name in loaded()}
    sys.modules["configs"] = importlib.util.module_from_spec(spec)
    try:
        yield
    finally:
        for name in loaded():
            del sys.modules[name]
        sys.modules.update(before)

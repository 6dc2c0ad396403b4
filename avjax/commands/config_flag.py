"""The flag ``--config`` of training commands."""

from typing import Any

from absl import flags
from ml_collections import config_flags

from avjax.errors import InputError


def define(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines ``--config``, and the ``--config.KEY`` overrides in ``argv``."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file, one of configs/. --config.KEY=VALUE overrides a value, such as "
        "--config.batch_size=16 --config.data.fold=msaf6/0; configs/common.py explains the keys.",
        flag_values=values,
        sys_argv=argv,
    )


def read(values: flags.FlagValues) -> dict[str, Any]:
    """Returns the config's tree of keys, with the overrides.

    Raises:
      InputError: no config is named, or the file cannot be read.
    """
    if values.config is None:
        raise InputError("--config is missing; name a file such as configs/ia_softhard.py")
    try:
        return values.config.to_dict()  # an unreadable file fails on first use
    except OSError as error:
        file = values["config"].config_filename
        raise InputError(f"the config file {file} cannot be read; name one of configs/") from error

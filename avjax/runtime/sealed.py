"""Saved content that proves itself: JSON with a digest of its own, and digests of arrays."""

import functools
import hashlib
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from avjax.errors import InputError

FORMAT = 1  # of everything that carries a digest


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns JSON content with ``format`` and ``digest``; NaN and infinities become None."""
    plain = json.loads(json.dumps(finite({**content, "format": FORMAT}), allow_nan=False))
    return {**plain, "digest": _digest(plain)}


def unseal(content: Any, path: Path, remedy: str) -> dict[str, Any]:
    """Checks content made by `seal`; returns it without ``format`` and ``digest``.

    Content without a digest, as earlier versions wrote it, is told to be unverified.

    Args:
      content: parsed JSON.
      path: its file, for messages.
      remedy: what to do about a damaged file.

    Raises:
      InputError: the content is not a JSON object or not what was sealed, or of a later format.
    """
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged; {remedy}")
    plain = {name: value for name, value in content.items() if name != "digest"}
    if "digest" not in content:
        tell_unverified(path)
    elif content["digest"] != _digest(plain):
        raise InputError(
            f"{path} is damaged (its content does not match its digest); {remedy} (if you changed "
            'the file yourself, remove its "digest")'
        )
    version = plain.pop("format", FORMAT)
    if version != FORMAT:
        raise InputError(f"{path} has format {version}, which this version does not read; update")
    return plain


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Reads a JSON file written by `avjax.runtime.files.write_json`.

    Raises:
      InputError: as `unseal`, or the file cannot be read.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); {remedy}") from error
    return unseal(content, path, remedy)


@functools.cache
def tell_unverified(path: Path) -> None:
    """Prints, once per process, that a file or folder has no digest."""
    print(f"note: {path} is unverified (it holds no digest)", file=sys.stderr)


def digest_arrays(arrays: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of arrays: their names, dtypes, shapes and bytes, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def refuse_bad_numbers(arrays: Mapping[str, Any], what: str, remedy: str) -> None:
    """Raises InputError if a value is NaN or infinite; ``what`` begins the message."""
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise InputError(f"{what} holds numbers that are not finite, in {bad[0]}{more}; {remedy}")


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def finite(value: Any) -> Any:
    """Replaces NaN and infinities, which JSON does not have, by None."""
    if isinstance(value, Mapping):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

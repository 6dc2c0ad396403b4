"""Predicts many files: some at once, in order, whatever happens to one of them."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from avjax.errors import InputError
from avjax.predictions.prediction import Prediction
from avjax.preparation.folder import files_below, is_spare
from avjax.preparation.notes import counted
from avjax.runtime.compilation import available_cores

# Of media files in folders; a file that is named itself may have any name.
_SUFFIXES = """
    3g2 3gp aac ac3 aif aiff amr asf au avi caf divx flac flv m2ts m4a m4v mka mkv mov mp2 mp3 mp4
    mpeg mpg mts mxf oga ogg ogv opus rm ts vob wav weba webm wma wmv
"""
SUFFIXES = frozenset("." + suffix for suffix in _SUFFIXES.split())


def in_order(
    predict: Callable[[Path], Prediction], paths: Iterable[str | Path]
) -> Iterator[tuple[Path, Prediction | InputError]]:
    """Yields each path with its prediction or error, in order.

    The first file is taken alone, as it compiles what the others use; then one per core.
    """

    def outcome(path: Path) -> Prediction | InputError:
        try:
            return predict(path)
        except InputError as error:
            return error

    rest = map(Path, paths)
    for path in itertools.islice(rest, 1):
        yield path, outcome(path)
    pending: deque[tuple[Path, Future[Prediction | InputError]]] = deque()
    with ThreadPoolExecutor(available_cores(), "predict") as pool:
        try:
            for path in rest:
                pending.append((path, pool.submit(outcome, path)))
                if len(pending) > available_cores():
                    done, future = pending.popleft()
                    yield done, future.result()
            for done, future in pending:
                yield done, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def media_files(paths: Iterable[str | Path], told: list[str]) -> list[Path]:
    """Replaces folders by the media files below them, by their suffix; files stay as they are.

    Args:
      paths: files and folders.
      told: receives a line for what is left out.

    Raises:
      InputError: a folder holds no media file.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            files.append(path)
            continue
        below = [file for file in files_below(path, told) if not is_spare(file, path)[0]]
        media = [file for file in below if file.suffix.lower() in SUFFIXES]
        if not media:
            raise InputError(f"{path} holds no video or sound file; name another folder")
        if len(media) < len(below):
            others = counted(len(below) - len(media), "other file")
            told.append(f"{others} in {path} left out; name a file itself to take it")
        files += media
    return list(dict.fromkeys(files))

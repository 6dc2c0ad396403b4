"""Loads a running ``avjax serve``: several clients at once, many clips, nothing lost.

avjax serve --checkpoint RUN & python tools/load_serve.py --clip clip.mp4
"""

import collections
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from absl import flags

from avjax import cli
from avjax.errors import InputError

USAGE = "Loads a running avjax serve, and tells its throughput, waits and memory."
EXAMPLE = Path(__file__).parents[1] / "avjax" / "serving" / "examples" / "happy.mp4"


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags."""
    text = {"flag_values": values}
    flags.DEFINE_string("url", "http://127.0.0.1:7860", "The server.", **text)
    flags.DEFINE_string("token", None, "Its token.", **text)
    flags.DEFINE_string("clip", str(EXAMPLE), "Clip to send.", **text)
    flags.DEFINE_integer("clients", 8, "Clients at once.", 1, **text)
    flags.DEFINE_integer("requests", 200, "Clips in all.", 1, **text)
    flags.DEFINE_integer("pid", None, "The server's process, to watch its memory.", 1, **text)


def job(values: flags.FlagValues, positional: list[str]) -> int:
    """Sends the clips; returns 1 if an answer is lost or differs."""
    clip = Path(values.clip)
    if not clip.is_file():
        raise InputError(f"there is no clip {clip}; name one by --clip")
    content, lock = clip.read_bytes(), threading.Lock()
    codes: collections.Counter[int] = collections.Counter()
    headers = {"Authorization": f"Bearer {values.token}"} if values.token else {}

    def ask(_: int) -> tuple[float, str]:
        """Sends one clip, again while the server is busy; returns seconds and answer."""
        begin = time.monotonic()
        while True:
            url = f"{values.url}/api/predict"
            response = requests.post(url, content, headers=headers, timeout=600)
            with lock:
                codes[response.status_code] += 1
            if response.status_code != 503:
                response.raise_for_status()
                return time.monotonic() - begin, response.text
            time.sleep(float(response.headers["Retry-After"]))

    ask(0)
    before = memory(values.pid)
    begin = time.monotonic()
    with ThreadPoolExecutor(values.clients) as pool:
        results = list(pool.map(ask, range(values.requests)))
    taken = time.monotonic() - begin
    seconds = sorted(second for second, _ in results)
    different = len({text for _, text in results})
    same = "all the same" if different == 1 else f"{different} that differ"
    print(f"{len(results)} answers of {values.requests}, {same}; status {dict(codes)}")
    print(f"{len(results) / taken:.2f} clips a second, {values.clients} clients at once")
    high = seconds[int(0.95 * (len(seconds) - 1))]
    print(f"wait: median {statistics.median(seconds):.2f} s, 95 % {high:.2f} s")
    if values.pid:
        print(f"memory (server and worker): {before:.0f} MB before, {memory(values.pid):.0f} after")
    return int(len(results) < values.requests or different > 1)


def memory(pid: int | None) -> float:
    """Returns the resident memory of a process and its children in MB."""
    if pid is None:
        return 0.0
    children = Path(f"/proc/{pid}/task/{pid}/children")
    pids = [str(pid), *(children.read_text().split() if children.exists() else ())]
    pages = [int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in pids]
    return sum(pages) * 4096 / 1e6


if __name__ == "__main__":
    sys.exit(cli.run(None, define_flags, job, USAGE))

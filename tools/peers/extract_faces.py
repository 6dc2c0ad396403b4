"""Times the reference's face extraction script on a folder of clips; run by benchmark.py.

python tools/peers/extract_faces.py CLONE FOLDER THREADS

CLONE is a clone of the reference's repository. FOLDER holds ACTORNN/*.mp4 and receives the script's
output. Needs PyTorch, facenet-pytorch 2.5.3 (``--no-deps`` suffices), OpenCV and tqdm. Only the
script's folder is changed. It runs once on one clip to warm up. Prints the time.
"""

import contextlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import cv2
import torch
import torchvision_stand_in

SCRIPT = "ravdess_preprocessing/extract_faces.py"


def run(source: str, folder: Path) -> dict[str, float]:
    """Runs the script on a folder, hiding its output; returns wall and CPU seconds."""
    edited, count = re.subn(r"(?m)^root *=.*$", lambda _: f"root = {str(folder)!r}", source)
    if count != 1:
        raise SystemExit(f"{SCRIPT} names its folder {count} times; this is another version")
    code = compile(edited, SCRIPT, "exec")
    start, cpu_start = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        exec(code, {"__name__": "__main__"})
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu_start}


def main(clone: str, folder: str, threads: str) -> None:
    """Warms up on the first clip, then times the script on all clips."""
    torch.set_num_threads(int(threads))
    cv2.setNumThreads(int(threads))
    torchvision_stand_in.install()
    source = (Path(clone) / SCRIPT).read_text(encoding="utf-8")
    root = Path(folder).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)  # the script writes a list of finished folders here
        first = min(root.rglob("*.mp4"))
        copy = Path(scratch, "warm_up", first.parent.name)
        copy.mkdir(parents=True)
        shutil.copy(first, copy)
        run(source, copy.parent)
        print(json.dumps(run(source, root)))


if __name__ == "__main__":
    main(*sys.argv[1:])

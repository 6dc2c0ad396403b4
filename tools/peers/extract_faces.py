"""Times the reference's own face script on a folder of clips; run by benchmark.py.

python tools/peers/extract_faces.py CLONE FOLDER THREADS

CLONE is a clone of the reference's repository, FOLDER holds ACTORNN/*.mp4 and receives what the
script writes. Needs PyTorch, facenet-pytorch 2.5.3 (``--no-deps`` will do), OpenCV and tqdm. The
script runs as it stands but for the folder in it, once to warm up on one clip. Prints the time.
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
    """Wall and processor seconds of the script on a folder; what it prints is swallowed."""
    placed, count = re.subn(r"(?m)^root *=.*$", lambda _: f"root = {str(folder)!r}", source)
    if count != 1:
        raise SystemExit(f"{SCRIPT} names its folder {count} times; this is another version")
    code = compile(placed, SCRIPT, "exec")
    began, began_cpu = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        exec(code, {"__name__": "__main__"})
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - began_cpu}


def main(clone: str, folder: str, threads: str) -> None:
    """Warms up on the first clip, then times all."""
    torch.set_num_threads(int(threads))
    cv2.setNumThreads(int(threads))
    torchvision_stand_in.install()
    source = (Path(clone) / SCRIPT).read_text(encoding="utf-8")
    root = Path(folder).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)  # it leaves a list of finished folders where it runs
        first = min(root.rglob("*.mp4"))
        copy = Path(scratch, "warm_up", first.parent.name)
        copy.mkdir(parents=True)
        shutil.copy(first, copy)
        run(source, copy.parent)
        print(json.dumps(run(source, root)))


if __name__ == "__main__":
    main(*sys.argv[1:])

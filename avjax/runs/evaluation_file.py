"""Evaluations on disk: a JSON file with everything, and beside it a CSV file of the clips."""

import contextlib
import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from avjax.errors import InputError
from avjax.runs.run_config import CONFIG_FILE
from avjax.runtime.files import write_json, write_text
from avjax.runtime.sealed import read_json

EVALUATION_FILE = "evaluation.json"  # of the test split
REMEDY = "remove it and evaluate the run again"
_SENSELESS = (  # raised by figures that no run has
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    StopIteration,
)


def evaluation_name(split: str) -> str:
    """Returns the name of the JSON file with a split's evaluation."""
    return EVALUATION_FILE if split == "test" else f"evaluation_{split}.json"


def write_evaluation(path: Path, evaluation: Mapping[str, Any]) -> None:
    """Writes the result of `avjax.evaluate.evaluate_checkpoint`, the clips also as CSV.

    Creates the folder. The JSON file is written last, so where it is, the other is too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path.with_suffix(".csv"), clips_csv(evaluation))
    write_json(path, evaluation)


def check_replaceable(path: Path) -> None:
    """Checks that an evaluation written to ``path`` would replace at most another evaluation.

    Raises:
      InputError: the JSON file, or the CSV file beside it, holds something else.
    """
    for file in (path, path.with_suffix(".csv")):
        if file.name == CONFIG_FILE or (file.exists() and not _is_evaluation(path)):
            raise InputError(f"{file} is not the file of an evaluation; name another with --out")


def _is_evaluation(path: Path) -> bool:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"split", "conditions", "clips"} <= content.keys()


def read_evaluation(workdir: Path) -> dict[str, Any] | None:
    """Reads a run's evaluation on the test split; returns None if there is none yet.

    Raises:
      InputError: it is damaged.
    """
    path = workdir / EVALUATION_FILE
    return read_json(path, REMEDY) if path.exists() else None


@contextlib.contextmanager
def explain_damage(files: str) -> Iterator[None]:
    """Turns errors over the contents of evaluations, of versions without digests, into one line.

    Raises:
      InputError: names ``files``.
    """
    try:
        yield
    except InputError:
        raise
    except _SENSELESS as error:
        text = f"{files} is damaged ({type(error).__name__}: {error}); {REMEDY}"
        raise InputError(text) from error


def clips_csv(evaluation: Mapping[str, Any]) -> str:
    """Formats the clips as CSV: a row for each clip and condition.

    The columns are clip, speaker, condition, truth, predicted, and each class's probability; if the
    model is calibrated, then also calibrated ones under ``calibrated_`` and the class's name, which
    are empty where a clip has none.
    """
    classes, clips = evaluation["classes"], evaluation["clips"]
    is_calibrated = any("calibrated" in clip for clip in clips.values())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = ["clip", "speaker", "condition", "truth", "predicted"]
    header += classes
    writer.writerow(header + [f"calibrated_{name}" for name in classes if is_calibrated])
    for name, clip in clips.items():
        for condition, raw in clip["probabilities"].items():
            answer = predicted(evaluation, name, condition)
            row = [name, clip["speaker"], condition, clip["truth"], answer, *raw]
            if is_calibrated:
                row += clip.get("calibrated", {}).get(condition, [""] * len(classes))
            writer.writerow(row)
    return text.getvalue()


def predicted(evaluation: Mapping[str, Any], name: str, condition: str) -> str | None:
    """Returns the class that a clip is taken for under a condition.

    None if the clip does not count in it, or if an earlier version did not keep the answer.
    """
    clip = evaluation["clips"][name]
    if condition in clip.get("predicted", {}):
        return clip["predicted"][condition]
    raw = clip["probabilities"].get(condition)
    return raw and evaluation["classes"][max(range(len(raw)), key=raw.__getitem__)]


def differing_counts(evaluation: Mapping[str, Any]) -> dict[str, int]:
    """Returns the number of clips by condition; empty where all conditions have the same ones."""
    counts = {name: x.get("num_clips", 0) for name, x in evaluation["conditions"].items()}
    return counts if len(set(counts.values())) > 1 else {}


def answered(evaluation: Mapping[str, Any], condition: str) -> dict[str, bool]:
    """Returns whether each clip is classified correctly under a condition.

    Clips without an answer are left out; of earlier versions' evaluations there are none at all.
    """
    hits = {}
    for name, clip in evaluation.get("clips", {}).items():
        answer = predicted(evaluation, name, condition)
        if answer is not None:
            hits[name] = answer == clip["truth"]
    return hits


def confidence(evaluation: Mapping[str, Any], name: str) -> float:
    """Returns the probability of a clip's answer when undisturbed, calibrated if possible."""
    clip, condition = evaluation["clips"][name], next(iter(evaluation["conditions"]))
    values = clip.get("calibrated", {}).get(condition) or clip["probabilities"][condition]
    return max(values)


def striking_clips(
    evaluation: Mapping[str, Any], wrong: int = 6, right: int = 2
) -> tuple[list[str], list[str]]:
    """Returns the clips that are most confidently wrong, and most confidently right."""
    hits = answered(evaluation, next(iter(evaluation["conditions"])))
    ranked = sorted(hits, key=lambda name: -confidence(evaluation, name))
    return (
        [name for name in ranked if not hits[name]][:wrong],
        [name for name in ranked if hits[name]][:right],
    )

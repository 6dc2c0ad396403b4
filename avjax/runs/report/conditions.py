"""The report's sections on accuracy: under each condition, and of each stream alone."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from avjax.data.ravdess import EMOTIONS
from avjax.runs.evaluation_file import answered, differing_counts
from avjax.runs.report.page import inline, new_figure, note, number, pair, percent, table
from avjax.runs.report.style import INK, VALIDATION
from avjax.training.significance import accuracy_interval

_ALONE = ("audio_only/zeros", "video_only/zeros")
_RAVDESS_FOLDS = ("published", "msaf6", "five")

# Accuracies that the paper reports (arXiv 2201.11095), by fusion and condition.
_PAPER = {"ia": {"audiovisual": 0.8158}}


def paper_accuracies(
    config: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> Mapping[str, float]:
    """Returns what the paper reports for a run's network on RAVDESS, by condition.

    Empty if it reports nothing, or if the run's fold is not one of RAVDESS's actors.
    """
    model, fold = config.get("model", {}), str(config.get("data", {}).get("fold", ""))
    is_ravdess = fold.split("/")[0] in _RAVDESS_FOLDS and evaluation["classes"] == list(EMOTIONS)
    if not is_ravdess or model.get("kind") != "audio_visual":
        return {}
    return _PAPER.get(model.get("fusion", ""), {})


def intervals(evaluation: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Returns the 95 % interval of each condition's accuracy, where the clips' answers are kept."""
    results = {}
    for name in evaluation["conditions"]:
        hits = answered(evaluation, name)
        if hits:
            speakers = [evaluation["clips"][clip]["speaker"] for clip in hits]
            results[name] = accuracy_interval(np.array([*hits.values()]), speakers)
    return results


def conditions_section(config: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    """Renders accuracies with intervals beside the paper's, and clips where conditions differ."""
    spread, paper = intervals(evaluation), paper_accuracies(config, evaluation)
    counts = differing_counts(evaluation)
    header = ["condition", *(["clips"] if counts else []), "accuracy"]
    header += ["95 % interval"] if spread else []
    header += ["paper"] if paper else []
    rows = []
    for name, figures in evaluation["conditions"].items():
        row = [name, *([str(counts[name])] if counts else []), percent(figures["accuracy"])]
        row += [format_interval(spread.get(name))] if spread else []
        row += [percent(paper[name]) if name in paper else ""] if paper else []
        rows.append([*row, f"{figures['macro_f1']:.3f}", f"{number(figures['loss']):.3f}"])
    caption = f"Accuracy on the {evaluation['split']} split with a modality missing or disturbed"
    caption += f"; the dotted line is chance, 1 in {len(evaluation['classes'])}."
    figure = inline(conditions_figure(evaluation), "conditions", caption)
    parts = [pair(figure, table([*header, "macro F1", "loss"], rows))]
    if spread:
        speakers = len({clip["speaker"] for clip in evaluation["clips"].values()})
        text = "Intervals are bootstrapped over the speakers (actors or groups) and their clips"
        few = f"; with {speakers} speakers they are rough" if 1 < speakers < 10 else ""
        alone = "; with one speaker they say nothing about others" if speakers == 1 else ""
        parts.append(note(text + few + alone + "."))
    if paper:
        parts.append(note("Paper: arXiv 2201.11095, on RAVDESS, with the paper's own split."))
    return "".join(parts)


def format_interval(values: tuple[float, float] | None) -> str:
    """Formats an interval of accuracies; empty if there is none."""
    return "" if values is None else f"{100 * values[0]:.1f} to {values[1]:.1%}"


def conditions_figure(evaluation: Mapping[str, Any]) -> Figure:
    """Plots a bar of accuracy for each condition with its interval, and a line at chance."""
    conditions, spread = evaluation["conditions"], intervals(evaluation)
    figure, axes = new_figure(5.2, 0.8 + 0.36 * len(conditions))
    axes.grid(axis="y", visible=False)
    names, values = list(conditions), [metrics["accuracy"] for metrics in conditions.values()]
    axes.barh(names, values, height=0.65, color=VALIDATION, alpha=0.75, zorder=2)
    for row, (name, value) in enumerate(zip(names, values, strict=True)):
        low, high = spread.get(name, (value, value))
        axes.plot((low, high), (row, row), color=INK, linewidth=1.5, zorder=4)
        axes.text(max(value, high) + 0.02, row, percent(value), color=INK, va="center")
    axes.axvline(1 / len(evaluation["classes"]), color=INK, linestyle=":", linewidth=1, zorder=3)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.16)  # room for the label of a full bar
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    return figure


def streams_section(evaluation: Mapping[str, Any]) -> str:
    """Renders how many clips each stream alone gets right, and both together; or nothing."""
    undisturbed = next(iter(evaluation["conditions"]))
    together, sound, video = (answered(evaluation, name) for name in (undisturbed, *_ALONE))
    clips = [name for name in together if name in sound and name in video]
    if not clips:
        return ""
    counts, right = Counter[tuple[bool, bool]](), Counter[tuple[bool, bool]]()
    for name in clips:
        key = sound[name], video[name]
        counts[key] += 1
        right[key] += together[name]
    rows = [
        (label, str(counts[key]), percent(counts[key] / len(clips)), f"{right[key]}")
        for label, key in (
            ("both, each alone", (True, True)),
            ("only sound alone", (True, False)),
            ("only video alone", (False, True)),
            ("neither", (False, False)),
        )
    ]
    header = ("right by", "clips", "share", "of them right together")
    best = sum(counts.values()) - counts[False, False]
    text = (
        f"Of {len(clips)} clips with both streams, sound alone gets {sum(sound[x] for x in clips)} "
        f"right, video alone {sum(video[x] for x in clips)}, both together "
        f"{sum(together[x] for x in clips)}; one that always trusted the right stream would get "
        f"{best}. Alone means that the other stream is zeros."
    )
    return table(header, rows) + note(text)

"""Writes a run's report from the files in its folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from avjax.data.pipeline import PreparedDataset
from avjax.runs.checkpoints import read_history
from avjax.runs.evaluation_file import EVALUATION_FILE, explain_damage, read_evaluation
from avjax.runs.metrics_log import METRICS_FILE, read_metrics
from avjax.runs.report.about import (
    data_section,
    made_section,
    open_prepared,
    settings_section,
    summary,
)
from avjax.runs.report.classes import classes_section, confusion_figure, speakers_section
from avjax.runs.report.clips import clips_section
from avjax.runs.report.conditions import conditions_figure, conditions_section, streams_section
from avjax.runs.report.curves import Lines, curve_figure, curves_section, enlarges
from avjax.runs.report.page import document, save_figures
from avjax.runs.report.reliability import reliability_figure, reliability_section
from avjax.runs.run_config import REPORT_FILE, read_config
from avjax.runs.saved_model import BEST, MODEL_FILE, ModelCard, has_model, load_model
from avjax.runtime.files import write_text

FIGURES = "figures"


def write_report(
    workdir: Path, defaults: Mapping[str, Any] | None = None, *, figures: bool = False
) -> Path:
    """Writes a run's ``report.html``.

    Args:
      workdir: the run's folder; ``evaluation.json`` and ``metrics.jsonl`` need not exist yet.
      defaults: the default config, to show first what differs.
      figures: whether to save the figures, too, as SVG and PNG files in ``figures/``.

    Returns:
      The path of the report.

    Raises:
      InputError: ``workdir`` is not a run, or one of its files is damaged.
    """
    workdir = Path(workdir)
    config, lines = read_run(workdir)
    evaluation = read_evaluation(workdir)
    model = load_model(workdir) if has_model(workdir) else None
    files = [workdir / BEST / MODEL_FILE, workdir / EVALUATION_FILE]
    with explain_damage(f"{workdir / METRICS_FILE} or {workdir / EVALUATION_FILE}"):
        page = render(
            config,
            lines,
            evaluation,
            defaults=defaults or {},
            dataset=open_prepared(config),
            card=model[1] if model else None,
            made=made_section(model, files),
        )
        drawn = _figures(config, lines, evaluation) if figures else {}
    if drawn:
        save_figures(workdir / FIGURES, drawn)
    path = workdir / REPORT_FILE
    write_text(path, page)
    return path


def read_run(workdir: Path) -> tuple[dict[str, Any], Lines]:
    """Reads a run's config and the lines of its metrics.

    Raises:
      InputError: ``workdir`` is not a run, or one of its files is damaged.
    """
    config, lines = read_config(workdir), read_history(workdir)
    return config, read_metrics(workdir) if lines is None else lines


def render(
    config: Mapping[str, Any],
    lines: Lines,
    evaluation: Mapping[str, Any] | None,
    *,
    defaults: Mapping[str, Any] | None = None,
    dataset: PreparedDataset | None = None,
    card: ModelCard | None = None,
    made: str = "",
) -> str:
    """Renders the report as an HTML document.

    Args:
      config: the run's config, nested.
      lines: the lines of ``metrics.jsonl``.
      evaluation: the content of ``evaluation.json``, or None.
      defaults: the default config.
      dataset: the run's dataset, if it is at hand.
      card: the best model's card, if there is one.
      made: HTML about the making of the run.
    """
    sections = {"Learning curves": curves_section(config, lines)}
    if evaluation:
        sections |= {
            "Accuracy by condition": conditions_section(config, evaluation),
            "What each stream alone gets right": streams_section(evaluation),
            "Confusion matrix and classes": classes_section(evaluation),
            "Actors and groups": speakers_section(evaluation),
            "Calibration": reliability_section(evaluation),
            "Most confidently wrong": clips_section(evaluation, dataset),
        }
    sections |= {
        "Settings": settings_section(config, defaults or {}),
        "Data": data_section(config, card, dataset),
        "Versions and dates": made,
    }
    name = str(config.get("name", "run"))
    return document(name, "training report", summary(config, lines, evaluation), sections)


def _figures(
    config: Mapping[str, Any], lines: Lines, evaluation: Mapping[str, Any] | None
) -> dict[str, Figure]:
    """Returns the page's figures, and a confusion matrix for each condition, by file name."""
    figures = {}
    if lines:
        for quantity in ("loss", "accuracy"):
            figures[quantity] = curve_figure(lines, quantity, enlarged=enlarges(config))
    if evaluation:
        figures["conditions"] = conditions_figure(evaluation)
        for name in evaluation["conditions"]:
            key = f"confusion-{name.replace('/', '-')}"
            figures[key] = confusion_figure(evaluation, name)
        if evaluation.get("clips"):
            figures["reliability"] = reliability_figure(evaluation)
    return figures

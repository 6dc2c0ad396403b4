"""The report: its figures at every stage of a run, in one self-contained page."""

import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from matplotlib.text import Text

from avjax.errors import InputError
from avjax.runs import report
from avjax.runs.report.classes import confusion_figure
from avjax.runs.report.conditions import conditions_figure
from avjax.runs.report.curves import compared_figure, curve_figure
from avjax.runs.report.style import DARK, INK, PAPER, SERIES

CLASSES = ["calm", "<happy>", "sad"]
NAME = 'a <b> & "c"'
CONFIG = {"name": NAME, "num_epochs": 9, "optimizer": {"milestones": [4, 6]}, "mask": "noise"}
VALIDATION = (0.25, 0.75, 0.75, 0.5)


def metric_lines(epochs=4):
    for epoch in range(1, epochs + 1):
        figures = {"epoch": epoch, "step": 8 * epoch, "loss": 2.0 / epoch, "macro_f1": 0.3}
        speed = {"seconds": 1800.0, "clips_per_second": 12.25, "learning_rate": 0.04}
        yield {**figures, **speed, "split": "train", "accuracy": 0.2 * epoch}
        yield {**figures, "split": "validation", "accuracy": VALIDATION[epoch - 1]}


def evaluation(confusion=((7, 1, 2), (0, 9, 1), (3, 3, 0))):
    figures = {"macro_f1": 0.444, "loss": 1.25, "confusion": confusion}
    names = ("audiovisual", "audio_only/zeros", "video_only/addnoise")
    return {
        "split": "test",
        "num_clips": 26,
        "classes": CLASSES,
        "epoch": 2,
        "conditions": {
            name: {**figures, "accuracy": accuracy}
            for name, accuracy in zip(names, (0.615, 0.125, 1.0), strict=True)
        },
    }


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    text = "".join(json.dumps(line) + "\n" for line in metric_lines())
    (tmp_path / "metrics.jsonl").write_text(text)
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation()))
    return tmp_path


class Page(HTMLParser):
    """Parses a page's text outside figures, ids and tables; checks that elements nest."""

    VOID = ("meta", "br", "input", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.ids, self.attributes, self.rows = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        self.ids += [value for name, value in attrs if name == "id"]
        self.attributes += [(tag, *attribute) for attribute in attrs]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and "svg" not in self.open and "style" not in self.open:
            self.texts.append(data)
            if self.rows and self.open[-1] in ("td", "th"):
                self.rows[-1].append(data)


def read_page(workdir):
    return Page(report.write_report(workdir).read_text(encoding="utf-8"))


def test_report_of_a_finished_run(workdir):
    page = read_page(workdir)
    assert ["audiovisual", "61.5%", "0.444", "1.250"] in page.rows
    assert ["audio_only/zeros", "12.5%", "0.444", "1.250"] in page.rows
    assert ["optimizer.milestones", "[4, 6]"] in page.rows
    assert ["mask", "noise"] in page.rows
    summary = dict(zip(page.texts, page.texts[1:], strict=False))
    assert summary["epochs"] == "4 of 9"
    assert summary["best epoch"] == "2"  # the earlier of two equal ones
    assert summary["validation accuracy"] == "75.0%"
    assert summary["test accuracy (26 clips)"] == "61.5%"
    assert summary["training"] == "2 h 0 min"
    assert summary["clips per second, last epoch"] == "12.2"


def test_report_needs_no_other_file(workdir):
    text = report.write_report(workdir).read_text(encoding="utf-8")
    assert text.count("<svg") == 3  # loss, accuracy, conditions
    links = [value for tag, name, value in Page(text).attributes if name in ("href", "src")]
    assert not re.search(r"<(script|link|iframe)|@import", text)
    assert [value for value in links if not value.startswith("#")] == []
    assert not re.search(r"url\((?!#)", text)


def test_text_is_escaped(workdir):
    page = read_page(workdir)
    assert NAME in page.texts
    assert "b" not in {tag for tag, *_ in page.attributes}


def test_ids_of_the_figures_do_not_collide(workdir):
    page = read_page(workdir)
    assert len(page.ids) == len(set(page.ids)) > 100
    used = [value[1:] for _, name, value in page.attributes if name.endswith("href")]
    assert set(used) <= set(page.ids)


def test_figures_use_the_colours_of_the_page(workdir):
    text = report.write_report(workdir).read_text(encoding="utf-8")
    for svg in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        ET.fromstring(svg)
        # Remaining matplotlib colours would be invisible on a dark page.
        assert not re.search(r"(fill|stroke): ?(#|black|white)", svg)
        assert "var(--ink)" in svg


def test_report_before_the_evaluation(workdir):
    (workdir / "evaluation.json").unlink()
    text = report.write_report(workdir).read_text(encoding="utf-8")
    assert text.count("<svg") == 2
    assert "Learning curves" in text
    assert "Confusion" not in text


def test_report_before_the_first_epoch(workdir):
    (workdir / "evaluation.json").unlink()
    (workdir / "metrics.jsonl").unlink()
    assert "No epoch is complete yet." in read_page(workdir).texts


def test_report_before_the_first_validation(workdir):
    path = workdir / "metrics.jsonl"
    path.write_text(path.read_text().splitlines()[0] + '\n{"epoch": 1, "sp')
    (workdir / "evaluation.json").unlink()
    page = read_page(workdir)
    assert "1 of 9" in page.texts
    assert "best epoch" not in page.texts


def test_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not a run"):
        report.write_report(tmp_path)


def test_curves_show_both_splits_and_the_best_epoch():
    (accuracy,) = curve_figure(list(metric_lines()), "accuracy", enlarged=True).axes
    (loss,) = curve_figure(list(metric_lines()), "loss").axes
    train, validation, best, *_ = accuracy.lines
    assert list(train.get_ydata()) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert tuple(validation.get_ydata()) == VALIDATION
    assert list(best.get_xdata()) == [2, 2]
    assert tuple(loss.lines[0].get_ydata()) == (2, 1, 2 / 3, 0.5)
    assert train.get_label() == "train accuracy (enlarged batch)"
    assert loss.lines[0].get_label() == "train loss"


@pytest.mark.parametrize(
    ("losses", "top"),
    [((2.0, 1.9), 2.1), ((2.0, None), 2.1), ((None, None), None), ((0.0, 0.0), None)],
)
def test_axes_leave_room_above_the_largest_value(losses, top):
    lines = [
        {"epoch": epoch, "split": "validation", "loss": loss, "accuracy": 1.0}
        for epoch, loss in enumerate(losses, start=1)
    ]
    for figure in (curve_figure(lines, "loss"), compared_figure({"a": lines}, "loss")):
        bottom, limit = figure.axes[0].get_ylim()
        assert bottom == 0
        assert limit == pytest.approx(top) if top else limit > 0
    assert curve_figure(lines, "accuracy").axes[0].get_ylim() == (0, 1.05)


def test_compared_curves_are_those_of_validation_by_name():
    lines = list(metric_lines())
    figure = compared_figure({"_a$b$": lines, "c": lines[:2]}, "accuracy")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert [tuple(line.get_ydata()) for line in axes.lines] == [VALIDATION, VALIDATION[:1]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [r" _a\$b\$", "c"]


def test_bars_show_accuracies_and_chance():
    (axes,) = conditions_figure(evaluation()).axes
    assert [bar.get_width() for bar in axes.patches] == [0.615, 0.125, 1.0]
    assert list(axes.lines[-1].get_xdata()) == [1 / 3, 1 / 3]
    assert [text.get_text() for text in axes.texts] == ["61.5%", "12.5%", "100.0%"]


def test_confusion_cells_are_shaded_by_their_share_of_the_row():
    (axes,) = confusion_figure(evaluation(((6, 2, 0), (0, 0, 0), (0, 0, 5)))).axes
    assert [text.get_text() for text in axes.texts] == list("620000005")
    shades = [patch.get_alpha() for patch in axes.patches]
    assert shades == pytest.approx([0.725, 0.275] + 6 * [0.05] + [0.95])
    assert [text.get_text() for text in axes.get_yticklabels()] == CLASSES


def figures():
    return {
        "curves": curve_figure(list(metric_lines()), "accuracy"),
        "conditions": conditions_figure(evaluation()),
        "confusion": confusion_figure(evaluation(((7, 1, 2), (0, 9, 0), (3, 6, 0)))),
    }


def pixels(figure):
    """Returns the RGB pixels of a saved figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    buffer.seek(0)
    return imread(buffer)[..., :3]


def luminance(rgb):
    """Returns the relative luminance defined by WCAG."""
    rgb = np.asarray(rgb)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def contrast(first, second):
    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_colours_of_series_have_contrast(dark):
    shown = DARK if dark else {colour: colour for colour in DARK}
    for colour in SERIES:
        assert contrast(to_rgb(shown[colour]), to_rgb(shown[PAPER])) > 3
    assert contrast(to_rgb(shown[INK]), to_rgb(shown[PAPER])) > 7
    assert len({shown[colour] for colour in SERIES}) == len(SERIES)


@pytest.mark.parametrize("name", ["curves", "conditions", "confusion"])
def test_saved_figure_is_legible_on_white(name):
    image = pixels(figures()[name])
    assert (image[0, 0] == 1).all()
    assert 0.001 < (luminance(image) < 0.1).mean() < 0.1  # text, and no black shapes
    coloured = np.ptp(image, axis=-1) > 0.3
    assert coloured.mean() > 0.002
    assert contrast(np.median(image[coloured], axis=0), np.ones(3)) > 3


@pytest.mark.parametrize("name", ["curves", "conditions", "confusion"])
def test_all_text_of_a_saved_figure_has_contrast(name):
    figure = figures()[name]
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    assert len(texts) > 5
    if name == "confusion":
        (axes,) = figure.axes
        shades = [to_rgb(patch.get_facecolor()) for patch in axes.patches]
        alphas = [patch.get_alpha() for patch in axes.patches]
        for text, shade, alpha in zip(axes.texts, shades, alphas, strict=True):
            cell = 1 - alpha * (1 - np.array(shade))
            assert contrast(to_rgb(text.get_color()), cell) > 3
            texts.remove(text)
    for text in texts:
        assert contrast(to_rgb(text.get_color()), np.ones(3)) > 7

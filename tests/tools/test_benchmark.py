"""The benchmark's commands and its tables. Nothing here is timed."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks import limits, network, plot, sides
from benchmarks import prepare as subject

from avjax.models.efficientface import EfficientFace
from avjax.models.ops import Map, values
from avjax.runtime.devices import CPU_STEPS_PER_CALL
from tests.clips import WholeFrame, tone, write_video
from tools import benchmark


def run(*arguments):
    return benchmark.main(["benchmark", *map(str, arguments)])


def test_measurement_prepares_twice_and_decodes(tmp_path, monkeypatch, capsys):
    for number in (3, 4):
        path = tmp_path / "Actor_07" / f"01-01-0{number}-01-01-01-07.mp4"
        write_video(path, 4, sound=tone(0.3))
    detector = WholeFrame()
    monkeypatch.setattr(subject.face_detector, "default_detector", lambda: detector)
    assert run("prepare", f"--source={tmp_path}", "--once", "--threads=1") == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [result["what"] for result in results] == ["cold", "warm", "decoding"]
    assert set(results[1]["phases"]) == {"sound", "decode", "detect", "crop", "write"}
    assert detector.calls == 4  # two clips, cold and warm


def test_figures_are_medians_of_rounds(capsys):
    def result(warm, decoding, cold):
        return {
            "warm": {"seconds": warm, "cpu": 4.0, "phases": {"decode": 2.0, "crop": 1.0}},
            "decoding": {"seconds": decoding, "cpu": 2.0},
            "cold": {"since_start": cold},
        }

    results = [result(2.0, 1.0, 8.0), result(90.0, 90.0, 90.0), result(1.0, 0.5, 4.0)]
    reference_results = [{"seconds": s, "cpu": 40.0} for s in (20.0, 12.0, 70.0)]
    subject.print_figures(8, 2, results, reference_results)
    text = capsys.readouterr().out
    assert "avjax       4.000 clips/s (0.089 to 8.000), 0.50 CPU seconds per clip" in text
    assert "1.000 clips/s from a cold start" in text
    assert "avjax takes 2.00 times as long" in text
    assert "decode 0.250, crop 0.125" in text
    assert "reference   0.400 clips/s" in text
    assert "avjax is 10.0 times as fast" in text


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 0, "Subjects: step"),
        (["knitting"], 2, "Subjects: step"),
        (["step", "--masks=hard"], 1, "unknown config.mask 'hard'"),
        (["step", "--batches=few"], 1, "are whole numbers"),
        (["forward", "--precision=low"], 1, "unknown --precision=low"),
        (["step", "--against=gone"], 1, "--against=gone has no tools/benchmark.py"),
        (["startup"], 1, "give --data"),
        (["input"], 1, "give --data"),
        (["prepare"], 1, "give --source"),
        (["prepare", "--source=gone"], 1, "there is no folder gone"),
    ],
)
def test_wrong_arguments_are_refused(capsys, arguments, status, message):
    assert run(*arguments) == status
    captured = capsys.readouterr()
    assert message in captured.out + captured.err


@pytest.mark.slow  # by default, a forward pass is measured below
def test_measures_steps_and_forward_passes(capsys):
    """Steps are timed by call."""
    setting = {"size": 64, "frames": 2, "batch": 2, "steps": 6, "mask": "nodropout"}
    setting["units"] = (1, 1, 1)
    for what, times in (("step", -(-6 // CPU_STEPS_PER_CALL)), ("forward", 6)):
        assert run(what, f"--once={json.dumps({**setting, 'what': what})}") == 0
        result = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert len(result["seconds"]) == times
        assert min(result["seconds"]) > 0
        assert result["memory"] > 1e8


def test_forward_needs_only_jax_and_flax():
    """`-S` ignores .pth files, so an editable install of avjax is invisible."""
    flax_requires = {"absl-py", "flax", "jax", "numpy", "optax", "orbax-checkpoint"}
    needed = {re.match(r"[\w.-]+", line)[0] for line in requires("avjax")}
    modules = [distribution.replace("-", "_") for distribution in needed - flax_requires]
    assert "jaxtyping" in modules
    program = sides.ROOT / "tools" / "benchmark.py"
    setting = json.dumps({"what": "forward", "size": 64, "frames": 2, "batch": 2, "steps": 1})
    script = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({[*modules, "cv2"]}))  # blocks their import
sys.path.insert(0, {str(program.parent)!r})
sys.argv = [{str(program)!r}, "forward", '--once={setting}']
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(jax.__file__).parents[1])}
    command = [sys.executable, "-S", "-c", script]
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["seconds"]


def test_sides_alternate_and_a_failed_one_is_skipped(monkeypatch):
    program = "print('noise'); print('{\"seconds\": [1]}')"
    good = sides.Side("good", [sys.executable, "-c", program])
    bad = sides.Side("bad", [sys.executable, "-c", "raise SystemExit('it broke')"])
    order = []
    measure = sides.measure
    monkeypatch.setattr(sides, "measure", lambda side: order.append(side.name) or measure(side))
    results = sides.alternate([good, bad], 3)
    assert order == ["good", "bad", "good", "good"]
    assert results["good"] == [{"seconds": [1]}] * 3
    assert sides.failure(results["bad"]) == "it broke"
    killed = sides.Side("killed", [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    assert sides.measure(killed) == {"failed": "does not fit"}


@pytest.fixture
def other_checkout(tmp_path):
    """A checkout whose benchmark prints how it was run, and one figure."""
    program = tmp_path / "tools" / "benchmark.py"
    program.parent.mkdir()
    program.write_text(
        "import json, os, sys\n"
        "result = {'seconds': [4.0], 'memory': 8e9, 'argv': sys.argv[1:], 'folder': os.getcwd()}\n"
        "print(json.dumps({**result, 'path': os.environ['PYTHONPATH']}))"
    )
    return tmp_path


@pytest.fixture
def fake_figures(monkeypatch, other_checkout):
    """A function that fakes this checkout's figures and returns the order of the sides."""
    order, measure = [], sides.measure
    monkeypatch.setattr(sides, "bind", lambda threads: None)

    def start(figures):
        figures = iter(figures)

        def fake_measure(side):
            order.append(side.name)
            return measure(side) if side.root == other_checkout else next(figures)

        monkeypatch.setattr(sides, "measure", fake_measure)
        return order

    return start


def test_checkouts_alternate_each_with_its_own_benchmark(other_checkout, fake_figures, capsys):
    figures = [{"seconds": [s], "memory": 2e9} for s in (2.0, 4.0, 1.0, 2.0, 3.0, 2.0, 2.0)]
    order = fake_figures([*figures, {"operations": 1e9, "bandwidth": 1e9}])
    file = other_checkout / "figures.json"
    assert run("forward", f"--against={other_checkout}", "--batches=2", f"--json={file}") == 0
    assert order[:5] == ["avjax", "other checkout", "other checkout", "avjax", "avjax"]
    assert len(order) == 2 * 7 + 1
    result = json.loads(file.read_text())[0]["found"]["other checkout"][0]
    subject_name, once = result["argv"]
    assert subject_name == "forward"
    setting = json.loads(once.removeprefix("--once="))
    assert network.Setting(**setting) == network.Setting("forward", mask="nodropout", batch=2)
    assert result["folder"] == str(other_checkout)
    assert result["path"].split(os.pathsep)[0] == str(other_checkout)
    text = capsys.readouterr().out
    assert re.search(r"^time +0\.500 \(0\.250 to 1\.000\)$", text, re.M)
    assert re.search(r"^peak memory +0\.250 \(0\.250 to 0\.250\)$", text, re.M)


def test_startup_measures_a_checkout_without_the_once_flag(other_checkout, fake_figures, capsys):
    startup = other_checkout / "tools" / "benchmarks" / "startup.py"
    startup.parent.mkdir()
    startup.write_text(
        "from absl import flags\n"
        "def define_flags(values):\n"
        "    for name in ('data', 'config', 'fold', 'batch', 'threads'):\n"
        "        flags.DEFINE_string(name, None, name, flag_values=values)\n"
        "def _first_step(values, scratch, kind):\n"
        "    assert values.data.startswith('/') and scratch.is_dir()\n"
        "    return {'cold': 4.0, 'warm': 2.0}[kind]"
    )
    fake_figures([{"cold": 2.0, "warm": 3.0}])
    assert run("startup", "--data=data", f"--against={other_checkout}", "--rounds=1") == 0
    text = capsys.readouterr().out
    assert "other checkout, cold cache: 4.0 s to the end of the first step" in text
    assert re.search(r"^cold +0\.500 .*\nwarm +1\.500 ", text, re.M)


def test_table_shows_medians_and_ratios():
    def results(*rounds, memory):
        return [{"seconds": list(seconds), "memory": memory} for seconds in rounds]

    by_side = {
        "avjax": results((1.0, 2.0, 9.0), (4.0, 4.0, 4.0), (2.5, 2.5, 2.5), memory=2e9),
        "reference": results((5.0, 5.0, 5.0), memory=8e9),
        "other": [{"failed": "does not fit"}],
    }
    lines = sides.table(by_side, clips=5)
    assert lines[1].split() == ["avjax", "2.500", "2.000", "to", "4.000", "2.00", "2.00"]
    assert lines[2].split()[-2:] == ["2.00x", "0.25x"]
    assert lines[3].split(maxsplit=1) == ["other", "does not fit"]


@pytest.mark.slow
def test_operations_and_weights_of_the_backbone():
    """Compares operations with XLA's count and weights with the published number."""
    weights = sum(layer.weights for layer in limits.image_layers(224))
    biases = 116 + 4 * 7 + 1  # only the modulator has biases
    assert weights == 1_268_118 - biases
    net = EfficientFace(8)
    frames = jax.ShapeDtypeStruct((1, 2, 224, 224, 3), np.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), Map(jnp.zeros((1, 1, 64, 64, 3))))

    def features(variables, frames):
        return net.apply(
            variables, frames, method=lambda net, frames: values(net.clip_features(Map(frames)))
        )

    expected = jax.jit(features).lower(variables, frames).cost_analysis()["flops"] / 2
    actual = sum(layer.operations for layer in limits.image_layers(224))
    assert actual == pytest.approx(expected, rel=0.25)


def test_operations_of_a_step_follow_from_its_distinct_inputs():
    train, evaluation = (
        limits.step_cost("nodropout", 4, 15, 224, 156, train) for train in (True, False)
    )
    assert train == pytest.approx([3 * value for value in evaluation])
    softhard = limits.step_cost("softhard", 4, 15, 224, 156, True)
    assert softhard[0] / train[0] == pytest.approx(121 / 60, rel=0.05)  # images: 2 * 60 + 1
    ceilings = limits.Ceilings(operations=10.0, bandwidth=8.0)
    assert limits.limit_seconds(100, ceilings) == 10
    assert limits.traffic_seconds(100, "bfloat16", ceilings) == 25


def test_plot_shows_seconds_per_clip_by_side(tmp_path):
    def figure(batch, seconds):
        results = {"avjax": [{"seconds": [seconds]}], "reference": [{"failed": "does not fit"}]}
        setting = network.Setting(batch=batch)._asdict()
        yardsticks = {"limit": {"seconds": seconds / 4}, "traffic": {"seconds": seconds / 2}}
        return {"setting": setting, "found": results, **yardsticks}

    figures = [figure(2, 1.0), figure(8, 3.2)]
    lines = plot.lines_by_side(figures, "batch")
    assert lines["avjax"] == [(2, 0.5), (8, 0.4)]
    assert lines["traffic (no limit)"] == [(2, 0.25), (8, 0.2)]
    plot.draw(figures, tmp_path / "cost.png")
    assert (tmp_path / "cost.png").stat().st_size > 1000

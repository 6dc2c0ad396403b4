"""The benchmark's subject `gpu`: its plan, its report, and all of it once with tiny shapes."""

import json
import subprocess

import pytest
from benchmarks import gpu, gpu_plan, gpu_report, gpu_tasks, network, trace

from avjax.models import ops
from tools import benchmark


def test_tasks_have_names_of_their_own_and_known_kinds():
    tasks = gpu_plan.plan(quick=False, reference=True)
    assert len({task["name"] for task in tasks}) == len(tasks)
    assert {task["kind"] for task in tasks} == {*gpu_tasks.TASKS, "reference"}
    assert "reference" not in {t["kind"] for t in gpu_plan.plan(quick=False, reference=False)}
    kinds = [task["kind"] for task in gpu_plan.plan(quick=True, reference=False)]
    assert {*kinds} == {*gpu_tasks.TASKS}


def test_fastest_forms_are_those_of_the_same_type():
    def row(operation, form, **fields):
        return {"operation": operation, "form": form, "shape": "1x2x2x3", **fields}

    timed = [
        row("conv2d", "nhwc", seconds=1.0),
        row("conv2d", "nhwc", seconds=1.0),
        row("conv2d", "patches", seconds=0.5),
        row("conv2d", "patches", seconds=1.4),
        row("conv2d", "nchw", failed="does not fit"),
        row("shuffle", "plain", seconds=0.1),
    ]
    results = {
        "forms of conv2d, tf32": {"timed": timed},
        "forms of conv2d, bfloat16": {"timed": [row("conv2d", "nhwc", seconds=0.1)]},
    }
    tasks = {task["name"]: task for task in gpu_plan.plan(quick=False, reference=True)}
    task = gpu_plan.resolved(tasks["step, fastest, tf32, batch 32"], results)
    assert task["setting"]["forms"] == "gpu,conv2d=patches"
    with network.chosen_forms(network.Setting(**task["setting"])):
        alternatives = {form: (lambda form=form: form) for form in ops.ALTERNATIVES["conv2d"]}
        assert ops.choose("conv2d", **alternatives)() == "patches"
    today = tasks["step, today, tf32, batch 32"]
    assert gpu_plan.resolved(today, results) == today


def test_report_shows_shares_and_what_is_missing(tmp_path):
    tasks = {task["name"]: task for task in gpu_plan.plan(quick=False, reference=True)}
    results = {
        "ceilings": {
            "device": "Abacus",
            "jax": "1.0",
            "ceilings": {"tf32": {"operations": 1e14, "bandwidth": 2e12}},
        },
        "step, today, tf32, batch 32": {"seconds": [0.1, 0.1], "memory": 3e9, "first": 20.0},
        "step, reference best, tf32, batch 32": {"failed": "does not fit"},
        "folds": {"folds": {"together": 0.002}},
        "accuracy": {
            "unfinished": "not done within 9 s",
            "accuracy": [{"type": "tf32", "forms": {}, "loss": 1e-4, "gradients": 2e-3}],
        },
    }
    entries = [{"task": tasks[name], "result": result} for name, result in results.items()]
    gpu_report.write(entries, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "Abacus, JAX 1.0" in text
    assert "| step, today, tf32, batch 32 | 100.00 | 320 | 3.00 | 9% | 66% | 20 |  |" in text
    assert "| a step of six folds of sound alone, together | 2.00 ms |" in text
    assert "| tf32 | today | 1.0e-04 | 2.0e-03 |" in text
    assert "- step, reference best, tf32, batch 32: does not fit" in text
    assert "- accuracy: not done within 9 s" in text
    assert (tmp_path / "report.png").stat().st_size > 1000


def test_kernels_tell_where_they_come_from():
    program = """
  %fusion.7 = f32[8,4]{1,0} fusion(%a), metadata={op_name="jit(step)/transpose(jvp(net))/conv/add"}
  ROOT %dot.1 = bf16[2]{0} dot(%a, %b), metadata={op_name="jit(step)/net/dot_general"}
  %bare = f32[] constant(0)
"""
    assert trace.instruction_sources(program) == {
        "fusion.7": "backward of transpose(jvp(net))/conv/add -> f32[8,4]",
        "dot.1": "net/dot_general -> bf16[2]",
    }


def test_what_a_stopped_measurement_had_is_kept(monkeypatch, tmp_path):
    """Its last line may be cut."""

    def stopped(*_, timeout, **__):
        raise subprocess.TimeoutExpired("task", timeout, output=b'{"timed": []}\n{"tim')

    monkeypatch.setattr(gpu.subprocess, "run", stopped)
    arguments = [f"--out={tmp_path}", "--minutes=1", "--only=forms of depthwise", "--quick"]
    assert benchmark.main(["benchmark", "gpu", *arguments]) == 0
    [line] = (tmp_path / "results.jsonl").read_text().splitlines()
    result = json.loads(line)["result"]
    assert result["timed"] == [] and result["unfinished"].startswith("not done within")


@pytest.mark.slow
def test_every_measurement_works_with_tiny_shapes(tmp_path, capsys):
    assert benchmark.main(["benchmark", "gpu", f"--out={tmp_path}", "--quick"]) == 0
    entries = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [e for e in entries if {"failed", "unfinished"} & e["result"].keys()] == []
    assert len(entries) == len(gpu_plan.plan(quick=True, reference=False))
    [accuracy] = [e["result"]["accuracy"] for e in entries if e["task"]["kind"] == "accuracy"]
    assert accuracy[0]["gradients"] < 1e-4
    assert "kernels of a step" in capsys.readouterr().out

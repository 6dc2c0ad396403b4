"""The report of the subject `gpu`: tables in Markdown, and a plot."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import gpu_plan, limits, network

LONGEST = 20
Entry = dict[str, Any]


def summary(result: dict[str, Any]) -> str:
    """Returns one line on a result."""
    if "failed" in result:
        return f"not measured: {result['failed']}"
    if isinstance(result.get("seconds"), list):
        return f"{1e3 * median(result['seconds']):.2f} ms, {result['memory'] / 1e9:.1f} GB"
    return "done" + (f", but {result['unfinished']}" if "unfinished" in result else "")


def write(entries: Sequence[Entry], out: Path) -> None:
    """Writes ``report.md`` and ``report.png``."""
    sections = (_head, _steps, _others, _operations, _kernels, _accuracy, _missing)
    lines = [line for section in sections for line in section(entries)]
    (out / "report.md").write_text("\n".join(lines) + "\n")
    if steps := [entry for entry in entries if _seconds(entry)]:
        _plot(steps, out / "report.png")


def _seconds(entry: Entry) -> float | None:
    """Returns the seconds of a step or an evaluation, if that is what was measured."""
    seconds = entry["result"].get("seconds")
    return median(seconds) if isinstance(seconds, list) else None


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    body = [f"| {' | '.join(row)} |" for row in rows]
    if body:
        yield from ("", f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |", *body)


def _ceilings(entries: Sequence[Entry]) -> dict[str, limits.Ceilings]:
    measured = (entry["result"].get("ceilings", {}) for entry in entries)
    return {kind: limits.Ceilings(**fields) for types in measured for kind, fields in types.items()}


def _head(entries: Sequence[Entry]) -> Iterator[str]:
    yield "# One run of `tools/benchmark.py gpu`"
    for entry in entries:
        if "device" in entry["result"]:
            yield f"\n{entry['result']['device']}, JAX {entry['result']['jax']}."
    rows = [
        (kind, f"{found.operations / 1e12:.1f}", f"{found.bandwidth / 1e12:.2f}")
        for kind, found in _ceilings(entries).items()
    ]
    yield from _table(("ceilings", "TFLOP/s", "TB/s"), rows)


def _steps(entries: Sequence[Entry]) -> Iterator[str]:
    ceilings = _ceilings(entries)
    rows = []
    for entry in entries:
        seconds, task = _seconds(entry), entry["task"]
        if seconds is None:
            continue
        setting = task["setting"]
        share = _shares(setting, seconds, ceilings.get(gpu_plan.kind_of(setting)))
        compiled = "compiled by torch.compile" if entry["result"].get("compiled") else ""
        note = entry["result"].get("note") or compiled
        rows.append(
            (
                task["name"],
                f"{1e3 * seconds:.2f}",
                f"{setting['batch'] / seconds:.0f}",
                f"{entry['result']['memory'] / 1e9:.2f}",
                *share,
                f"{entry['result'].get('first', 0):.0f}",
                note,
            )
        )
    head = ("step or evaluation", "ms", "clips/s", "peak GB")
    yield from _table((*head, "arithmetic", "bandwidth", "first call, s", ""), rows)


def _shares(
    setting: dict[str, Any], seconds: float, ceilings: limits.Ceilings | None
) -> tuple[str, str]:
    """Returns the shares of both ceilings, for the deduplicated network's cost."""
    if ceilings is None or tuple(setting["units"]) != network.Setting().units:
        return "", ""
    shape = setting["batch"], setting["frames"], setting["size"], network.AUDIO_STEPS
    train = setting["what"] == "step"
    operations, moved = limits.step_cost(setting["mask"], *shape, train)
    arithmetic = limits.limit_seconds(operations, ceilings)
    traffic = limits.traffic_seconds(moved, setting["dtype"], ceilings)
    return f"{arithmetic / seconds:.0%}", f"{traffic / seconds:.0%}"


def _others(entries: Sequence[Entry]) -> Iterator[str]:
    rows = []
    for entry in entries:
        name, result = entry["task"]["name"], entry["result"]
        if "epoch_seconds" in result:
            seconds = result["epoch_seconds"]
            rows.append((name, f"{seconds:.2f} s for {result['clips']} clips"))
        if "folds" in result:
            for way, seconds in result["folds"].items():
                rows.append(
                    (f"a step of six folds of sound alone, {way}", f"{1e3 * seconds:.2f} ms")
                )
        if "frames_per_second" in result:
            text = f"{result['frames_per_second']:.0f} frames/s, a face in {result['seen']} of "
            rows.append((name, f"{text}{result['frames']}"))
    yield from _table(("", ""), rows)


def _operations(entries: Sequence[Entry]) -> Iterator[str]:
    rows = []
    for entry in entries:
        kind = entry["task"]["name"].rsplit(", ", 1)[-1]
        for row in entry["result"].get("timed", []):
            time = f"{1e3 * row['seconds']:.3f}" if "seconds" in row else row.get("failed", "")
            rows.append((row["operation"], row["shape"], kind, row["form"], time))
    yield from _table(("operation", "map", "type", "form", "ms"), rows)


def _kernels(entries: Sequence[Entry]) -> Iterator[str]:
    for entry in entries:
        kernels = entry["result"].get("kernels", [])
        rows = [
            (k["name"], f"{1e3 * k['seconds']:.3f}", f"{k['share']:.1%}", f"`{k['source']}`")
            for k in kernels[:LONGEST]
        ]
        if rows:
            totals = entry["result"]["totals"]
            text = f"{1e3 * totals['seconds']:.2f} ms in {totals['runs']:.0f} kernels"
            yield f"\n{entry['task']['name']}: {text}."
        yield from _table(("kernel", "ms", "share", "from"), rows)


def _accuracy(entries: Sequence[Entry]) -> Iterator[str]:
    rows = []
    for entry in entries:
        for row in entry["result"].get("accuracy", []):
            forms = ", ".join(f"{k}={v}" for k, v in row["forms"].items()) or "today"
            rows.append((row["type"], forms, f"{row['loss']:.1e}", f"{row['gradients']:.1e}"))
    yield from _table(("type", "forms", "loss off by", "gradients off by"), rows)


def _missing(entries: Sequence[Entry]) -> Iterator[str]:
    for entry in entries:
        reason = entry["result"].get("failed") or entry["result"].get("unfinished")
        if reason:
            yield f"\n- {entry['task']['name']}: {reason}"


def _plot(entries: Sequence[Entry], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 0.6 + 0.32 * len(entries)))
    names = [entry["task"]["name"] for entry in entries]
    rates = [entry["task"]["setting"]["batch"] / (_seconds(entry) or 1) for entry in entries]
    colours = ["C1" if entry["task"]["kind"] == "reference" else "C0" for entry in entries]
    axes.barh(names, rates, color=colours)
    axes.invert_yaxis()
    axes.set_xlabel("clips a second (orange: the reference)")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)

"""Times a training step or an evaluation forward pass, of avjax and of the reference in PyTorch.

python tools/benchmark.py step --reference CLONE --reference_python PYTHON --batches 8,4,2
python tools/benchmark.py forward --reference CLONE --reference_python PYTHON
python tools/benchmark.py step --against CHECKOUT

Both sides take random clips from memory: no loading, no augmentation. Without --reference it
measures only avjax. The reference runs as it is, and at its best: channels_last,
torch.compile where it works, autocast if --dtypes asks for bfloat16, and huge pages as in avjax. On
a GPU --precision applies to the float32 products of both sides.

Each side runs in a separate process, in turn, for --rounds rounds. A round's figure is the median
of its steps; the table shows the median and the range of the rounds. The limit is the minimum time
of the network's arithmetic. Traffic is the time to move every layer's operands through memory once,
which caches can beat (benchmarks/limits.py). --against compares with another checkout of avjax,
measured by its own benchmark. --json stores the figures. --plot draws them against batch size,
frames or devices.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from absl import flags
from benchmarks import against, limits, network, sides

from avjax.errors import InputError

PEER = sides.ROOT / "tools" / "peers" / "reference_step.py"
EPOCH_CLIPS, EPOCHS = 1920, 100
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # as the Makefile sets


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags shared with the subject `forward`."""

    def text(name: str, default: str | None, help_: str) -> None:
        flags.DEFINE_string(name, default, help_, flag_values=values)

    def listed(name: str, default: Sequence[str], help_: str) -> None:
        flags.DEFINE_list(name, default, help_, flag_values=values)

    defaults = network.Setting()
    text("reference", None, "Clone of the reference's repository.")
    text("reference_python", None, "Python that runs the reference (default: this one).")
    text("fusion", defaults.fusion, "ia, it or lt.")
    text("precision", defaults.precision, "Float32 products on a GPU: highest or tf32.")
    text("json", None, "File for the figures.")
    text("plot", None, "Image file for a plot.")
    text("once", None, "Setting as JSON: measure avjax once in this process.")
    text("ceilings", None, "dtype: measure the device's peaks in this process.")
    listed("masks", [defaults.mask], "softhard, noise, nodropout; for steps.")
    listed("batches", [str(defaults.batch)], "Clips in a batch.")
    listed("frames", [str(defaults.frames)], "Frames in a clip.")
    listed("devices", [str(defaults.devices)], "Number of devices.")
    listed("dtypes", [defaults.dtype], "float32, bfloat16.")
    integers = {"size": "Frame size.", "threads": "Cores.", "steps": "Timed steps per round."}
    for name, help_ in integers.items():
        flags.DEFINE_integer(name, getattr(defaults, name), help_, 1, flag_values=values)
    against.define_flags(values)


def job(values: flags.FlagValues, positional: list[str], what: str = "step") -> None:
    """Measures and prints a table for every setting."""
    if positional:
        raise InputError(f"unexpected argument {positional[0]!r}; see --help")
    if values.once:
        return network.measure(network.Setting(**json.loads(values.once)))
    if values.ceilings:
        return network.ceilings(values.ceilings, values.precision)
    settings = _settings(values, what)
    sides.bind(values.threads)
    figures = [measure(setting, values) for setting in settings]
    if values.json:
        Path(values.json).write_text(json.dumps(figures, indent=1))
    if values.plot:
        from benchmarks import plot

        plot.draw(figures, Path(values.plot))


def _settings(values: flags.FlagValues, what: str) -> list[network.Setting]:
    """Returns every combination of the flags' values."""
    try:
        numbers = {
            name: [int(n) for n in values[name].value] for name in ("batches", "frames", "devices")
        }
    except ValueError as error:
        raise InputError("--batches, --frames and --devices are whole numbers") from error
    masks = values.masks if what == "step" else ["nodropout"]
    common = {
        name: values[name].value for name in ("fusion", "precision", "size", "threads", "steps")
    }
    return [
        network.check(
            network.Setting(
                what=what,
                mask=mask,
                batch=batch,
                frames=frames,
                dtype=dtype,
                devices=devices,
                **common,
            )
        )
        for mask in masks
        for dtype in values.dtypes
        for devices in numbers["devices"]
        for frames in numbers["frames"]
        for batch in numbers["batches"]
    ]


def measure(setting: network.Setting, values: flags.FlagValues) -> dict[str, Any]:
    """Measures all sides of one setting and prints their table."""
    fields = setting._asdict()
    text = ", ".join(f"{name} {value}" for name, value in fields.items() if name != "what")
    print(f"\n{setting.what}: {text}", flush=True)
    results = sides.alternate(_sides(setting, values), against.rounds(values))
    print("\n".join(sides.table(results, setting.batch, setting.what)))
    for name, rounds in results.items():
        notes = {result["note"] for result in rounds if result.get("note")}
        notes |= {"compiled by torch.compile" for result in rounds if result.get("compiled")}
        if notes:
            print(f"{name}: {'; '.join(sorted(notes))}")
    figures = {
        "time": lambda result: median(result["seconds"]),
        "peak memory": lambda result: result["memory"],
    }
    for line in against.report(results, figures):
        print(line)
    yardsticks = _yardsticks(setting)
    rounds = results[against.THIS]
    if not sides.failure(rounds):
        _print_efficiency(setting, rounds, **yardsticks)
    return {"setting": fields, "found": results, **yardsticks}


def _sides(setting: network.Setting, values: flags.FlagValues) -> list[sides.Side]:
    """Returns the sides: this checkout, another one, the reference in both forms."""
    text, whole = setting.text, json.dumps(setting._asdict())
    environment = dict(HUGE_PAGES)
    if setting.devices > 1:
        count = f"--xla_force_host_platform_device_count={setting.devices}"
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {count}".strip()
    all_sides = [
        sides.checkout(name, root, setting.what, f"--once={text}", environment=environment)
        for name, root in against.checkouts(values).items()
    ]
    if values.reference:
        python = values.reference_python or sys.executable
        clone = str(Path(values.reference).resolve())
        all_sides += [
            sides.Side(f"reference, {form}", [python, str(PEER), clone, whole, form], variables)
            for form, variables in (("as_is", {}), ("best", HUGE_PAGES))
        ]
    return all_sides


def _yardsticks(setting: network.Setting) -> dict[str, dict[str, float]]:
    """Returns the arithmetic limit and the traffic on this device; see `limits`."""
    train = setting.what == "step"
    shape = (setting.batch, setting.frames, setting.size, network.AUDIO_STEPS)
    operations, moved = limits.step_cost(setting.mask, *shape, train)
    command = sides.command(
        setting.what, f"--ceilings={setting.dtype}", f"--precision={setting.precision}"
    )
    result = sides.measure(sides.Side("ceilings", command, HUGE_PAGES, sides.ROOT))
    if "failed" in result:
        raise InputError(f"the ceilings cannot be measured: {result['failed']}")
    measured = limits.Ceilings(**result)
    return {
        "limit": {
            "seconds": limits.limit_seconds(operations, measured),
            "operations": operations,
            "peak": measured.operations,
        },
        "traffic": {
            "seconds": limits.traffic_seconds(moved, setting.dtype, measured),
            "moved": moved,
            "bandwidth": measured.bandwidth,
        },
    }


def _print_efficiency(
    setting: network.Setting,
    rounds: Sequence[sides.Result],
    limit: dict[str, float],
    traffic: dict[str, float],
) -> None:
    middle = median(sides.seconds(rounds))
    print(
        f"limit {limit['seconds']:.4f} s ({limit['operations'] / 1e9:.1f} GFLOP at "
        f"{limit['peak'] / 1e9:.0f} GFLOP/s): avjax reaches {limit['seconds'] / middle:.0%} "
        "of the limit"
    )
    print(
        f"traffic {traffic['seconds']:.4f} s to move all operands through memory once "
        f"({traffic['moved'] / 1e9:.2f} G values at {traffic['bandwidth'] / 1e9:.1f} GB/s); "
        "no limit, as caches can save it"
    )
    if setting.what == "step":
        minutes = middle * -(-EPOCH_CLIPS // setting.batch) * EPOCHS / 60
        print(f"{EPOCHS} epochs of {EPOCH_CLIPS} such clips: {minutes:.1f} minutes of steps")

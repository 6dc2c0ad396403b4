"""Seconds of a training step or an evaluation forward pass, beside the reference's in PyTorch.

python tools/benchmark.py step --reference CLONE --reference_python PYTHON --batches 8,4,2
python tools/benchmark.py forward --reference CLONE --reference_python PYTHON
python tools/benchmark.py step --against CHECKOUT

Random clips lie in memory on both sides: no loading, no augmentation. Without --reference avjax is
measured alone. The reference runs as it is, and at its best: channels_last, torch.compile where it
works, autocast where --dtypes asks for bfloat16, and huge pages, which avjax has too. On a GPU both
sides' float32 products are those of --precision. Each side runs in a process of its own, in turn,
for --rounds rounds; a round's figure is the median of its steps, and the median of rounds is told,
with their range. The limit is the time that the network's arithmetic takes at the least, traffic
the time if every layer's operands went through memory once, which caches can beat
(benchmarks/limits.py). With --against another checkout of avjax takes turns with this one, measured
by its own benchmark. --json keeps the figures, and --plot draws them against batch size, frames or
devices, whichever varies.
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
    """The subject's flags, but for what is measured."""

    def text(name: str, default: str | None, help_: str) -> None:
        flags.DEFINE_string(name, default, help_, flag_values=values)

    def listed(name: str, default: Sequence[str], help_: str) -> None:
        flags.DEFINE_list(name, default, help_, flag_values=values)

    usual = network.Setting()
    text("reference", None, "A clone of the reference's repository.")
    text("reference_python", None, "The Python that runs it (default: this one).")
    text("fusion", usual.fusion, "ia, it or lt.")
    text("precision", usual.precision, "Of float32 products on a GPU: highest or tf32.")
    text("json", None, "File for the figures.")
    text("plot", None, "Image file for a plot.")
    text("once", None, "A setting: measure avjax once, in this process.")
    text("ceilings", None, "A dtype: measure the device's ceilings, in this process.")
    listed("masks", [usual.mask], "softhard, noise, nodropout; for steps.")
    listed("batches", [str(usual.batch)], "Clips of a batch.")
    listed("frames", [str(usual.frames)], "Frames of a clip.")
    listed("devices", [str(usual.devices)], "Devices; on CPU, parts of it.")
    listed("dtypes", [usual.dtype], "float32, bfloat16.")
    whole = {"size": "Pixels a side.", "threads": "Cores.", "steps": "Timed steps a round."}
    for name, help_ in whole.items():
        flags.DEFINE_integer(name, getattr(usual, name), help_, 1, flag_values=values)
    against.define_flags(values)


def job(values: flags.FlagValues, positional: list[str], what: str = "step") -> None:
    """Measures and prints."""
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
    """Every combination that the flags name."""
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
    """All sides of one setting; prints their table."""
    asked = setting._asdict()
    shown = ", ".join(f"{name} {value}" for name, value in asked.items() if name != "what")
    print(f"\n{setting.what}: {shown}", flush=True)
    found = sides.alternate(_sides(setting, values), against.rounds(values))
    print("\n".join(sides.table(found, setting.batch, setting.what)))
    for name, told in found.items():
        notes = {one["note"] for one in told if one.get("note")}
        notes |= {"compiled by torch.compile" for one in told if one.get("compiled")}
        if notes:
            print(f"{name}: {'; '.join(sorted(notes))}")
    figures = {"time": lambda one: median(one["seconds"]), "peak memory": lambda one: one["memory"]}
    for line in against.report(found, figures):
        print(line)
    yardsticks = _yardsticks(setting)
    own = found[against.OWN]
    if not sides.failure(own):
        _print_own(setting, own, **yardsticks)
    return {"setting": asked, "found": found, **yardsticks}


def _sides(setting: network.Setting, values: flags.FlagValues) -> list[sides.Side]:
    """What takes turns: this checkout, another one, the reference in both forms."""
    asked = json.dumps(setting._asdict())
    environment = dict(HUGE_PAGES)
    if setting.devices > 1:
        count = f"--xla_force_host_platform_device_count={setting.devices}"
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {count}".strip()
    chosen = [
        sides.checkout(name, root, setting.what, f"--once={asked}", environment=environment)
        for name, root in against.checkouts(values).items()
    ]
    if values.reference:
        python = values.reference_python or sys.executable
        clone = str(Path(values.reference).resolve())
        chosen += [
            sides.Side(f"reference, {form}", [python, str(PEER), clone, asked, form], added)
            for form, added in (("as_is", {}), ("best", HUGE_PAGES))
        ]
    return chosen


def _yardsticks(setting: network.Setting) -> dict[str, dict[str, float]]:
    """The arithmetic's limit and the traffic on this device, as `limits` explains them."""
    train = setting.what == "step"
    shape = (setting.batch, setting.frames, setting.size, network.AUDIO_STEPS)
    operations, moved = limits.step_cost(setting.mask, *shape, train)
    command = sides.command(
        setting.what, f"--ceilings={setting.dtype}", f"--precision={setting.precision}"
    )
    told = sides.measure(sides.Side("ceilings", command, HUGE_PAGES, sides.ROOT))
    if "failed" in told:
        raise InputError(f"the ceilings cannot be measured: {told['failed']}")
    reached = limits.Ceilings(**told)
    return {
        "limit": {
            "seconds": limits.limit_seconds(operations, reached),
            "operations": operations,
            "peak": reached.operations,
        },
        "traffic": {
            "seconds": limits.traffic_seconds(moved, setting.dtype, reached),
            "moved": moved,
            "bandwidth": reached.bandwidth,
        },
    }


def _print_own(
    setting: network.Setting,
    own: Sequence[sides.Found],
    limit: dict[str, float],
    traffic: dict[str, float],
) -> None:
    middle = median(sides.seconds(own))
    print(
        f"limit {limit['seconds']:.4f} s ({limit['operations'] / 1e9:.1f} GFLOP at "
        f"{limit['peak'] / 1e9:.0f} GFLOP/s): avjax reaches {limit['seconds'] / middle:.0%} "
        "of the limit"
    )
    print(
        f"traffic {traffic['seconds']:.4f} s, were all operands moved through memory once "
        f"({traffic['moved'] / 1e9:.2f} G numbers at {traffic['bandwidth'] / 1e9:.1f} GB/s); "
        "no limit, as caches spare it"
    )
    if setting.what == "step":
        minutes = middle * -(-EPOCH_CLIPS // setting.batch) * EPOCHS / 60
        print(f"{EPOCHS} epochs of {EPOCH_CLIPS} such clips: {minutes:.1f} minutes of steps")

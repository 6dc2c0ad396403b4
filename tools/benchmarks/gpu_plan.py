"""What the subject `gpu` measures, the most telling first."""

from typing import Any

from benchmarks import network

from avjax.models import ops

Task = dict[str, Any]

TYPES = {
    "tf32": {"dtype": "float32", "precision": "tf32"},
    "bfloat16": {"dtype": "bfloat16", "precision": "tf32"},
    "float32": {"dtype": "float32", "precision": "highest"},
}
TINY = {"batch": 2, "frames": 2, "size": 64, "units": (1, 1, 1), "steps": 2, "calls": 1}


def plan(quick: bool, reference: bool) -> list[Task]:
    """Returns the tasks: ``name``, ``kind``, ``limit`` in seconds, and the kind's own fields."""

    def setting(kind: str, batch: int, **changes: Any) -> dict[str, Any]:
        fields = {"steps": 60, "calls": 20, "batch": batch, **TYPES[kind], **changes}
        return network.Setting(**{**fields, **(TINY if quick else {})})._asdict()

    def step(forms: str, kind: str, batch: int, **changes: Any) -> Task:
        what = "evaluation" if changes.get("what") == "forward" else "step"
        notes = "".join(
            f", {note}"
            for name, note in (("deduplicate", "naive"), ("steps_per_call", "8 steps a call"))
            if name in changes
        )
        return {
            "name": f"{what}, {forms}{notes}, {kind}, batch {batch}",
            "kind": "network",
            "forms": forms,
            "limit": 90,
            "setting": setting(kind, batch, **changes),
        }

    def peer(form: str, kind: str, batch: int, **changes: Any) -> list[Task]:
        task = {**step(f"reference {form}", kind, batch, **changes), "kind": "reference"}
        return [{**task, "form": form, "limit": 180}] if reference and not quick else []

    def operations(kind: str) -> list[Task]:
        rows, size = (4, 64) if quick else (961, 224)
        groups = (
            ("depthwise", "depthwise_input", "depthwise_kernel"),
            ("conv2d", "statistics", "max_pool", "kernel_gradient", "batch_norm", "shuffle"),
        )
        return [
            {
                "name": f"forms of {', '.join(names)}, {kind}",
                "kind": "operations",
                "operations": names,
                "limit": 60,
                "rows": rows,
                "size": size,
                **TYPES[kind],
            }
            for names in groups
        ]

    trace = {
        **step("today", "tf32", 32),
        "name": "kernels of a step, today, tf32, batch 32",
        "kind": "trace",
        "steps": 3,
        # Kernels within a CUDA graph do not tell which operation they belong to.
        "environment": {"XLA_FLAGS": "--xla_gpu_enable_command_buffer="},
    }
    folds = {"name": "folds", "kind": "folds", "limit": 60, "steps": 2 if quick else 50}
    folds["coefficients"] = (10, 40) if quick else (7, 7, 10, 10, 13, 13, 20, 20, 40, 40, 80)
    epoch = {
        "name": "epoch, bfloat16, batch 32",
        "kind": "epoch",
        "clips": 6 if quick else 1920,
        "limit": 90,
        "setting": setting("bfloat16", 32),
    }
    detector = {"name": "face detector", "kind": "detector", "limit": 60}
    detector |= {"size": 128, "frames": 4} if quick else {"size": 720, "frames": 64}
    accuracy = {
        "name": "accuracy",
        "kind": "accuracy",
        "limit": 120,
        "sets": 1 if quick else 100,
        "types": {"tf32": TYPES["tf32"]} if quick else TYPES,
        "setting": setting("tf32", 2, frames=4, size=96, units=(1, 1, 1)),
    }
    ceilings = {"name": "ceilings", "kind": "ceilings", "limit": 40, "types": TYPES}
    others = {"tf32": (8, 128), "bfloat16": (8, 128), "float32": (8,)}
    tasks = [
        step("today", "tf32", 32),
        *peer("as_is", "tf32", 32),
        *operations("tf32"),
        step("fastest", "tf32", 32),
        *peer("best", "tf32", 32),
        ceilings,
        step("today", "bfloat16", 32),
        *peer("best", "bfloat16", 32),
        epoch,
        trace,
        {**step("today", "tf32", 32), "name": "start, warm", "limit": 60},
        *operations("bfloat16"),
        step("fastest", "bfloat16", 32),
        *(step("today", kind, batch) for kind, batches in others.items() for batch in batches),
        *peer("as_is", "tf32", 8),
        *peer("best", "tf32", 8),
        step("today", "tf32", 32, deduplicate=False),
        step("today", "tf32", 32, steps_per_call=8),
        step("stock", "tf32", 32),
        step("today", "tf32", 32, what="forward"),
        *peer("best", "tf32", 32, what="forward"),
        accuracy,
        folds,
        detector,
    ]
    if quick:  # each kind once
        tasks = [task for i, task in enumerate(tasks) if task["name"] in _first_of_kind(tasks)]
    return tasks


def _first_of_kind(tasks: list[Task]) -> set[str]:
    kinds: dict[str, str] = {}
    for task in tasks:
        key = task["kind"] if task["kind"] != "network" else task["name"].split(",")[0]
        kinds.setdefault(key, task["name"])
    return set(kinds.values()) | {task["name"] for task in tasks if task.get("forms") == "stock"}


def resolved(task: Task, results: dict[str, Any]) -> Task:
    """Fills in the fastest forms that have been measured."""
    forms = task.get("forms", "today")
    if forms == "today" or "setting" not in task or task["kind"] == "reference":
        return task
    text = "stock" if forms == "stock" else fastest(task["setting"], results)
    return {**task, "setting": {**task["setting"], "forms": text}}


def fastest(setting: dict[str, Any], results: dict[str, Any]) -> str:
    """Returns the fastest measured form of each operation, as `network.Setting.forms`."""
    seconds: dict[str, dict[str, float]] = {}
    for name, result in results.items():
        if name.endswith(f", {kind_of(setting)}"):
            for row in result.get("timed", []):
                if row["operation"] in ops.ALTERNATIVES:
                    forms = seconds.setdefault(row["operation"], {})
                    time = row.get("seconds", float("inf"))
                    forms[row["form"]] = forms.get(row["form"], 0.0) + time
    best = [f"{operation}={min(forms, key=forms.get)}" for operation, forms in seconds.items()]  # type: ignore[arg-type]
    return ",".join(["gpu", *best])


def kind_of(setting: dict[str, Any]) -> str:
    """Returns which of `TYPES` a setting has."""
    fields = {name: setting[name] for name in ("dtype", "precision")}
    return next(kind for kind, values in TYPES.items() if values == fields)

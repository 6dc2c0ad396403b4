"""Prepares raw clips into a dataset: ``avjax prepare --source RAVDESS --out DATA``.

``--import_crops`` imports clips prepared by the reference's scripts. Each finished clip is durable:
the same command resumes. On several machines, run with ``--shard 1/8`` to ``8/8``, then
``avjax prepare --merge --out DATA`` makes the dataset.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from avjax import cli
from avjax.data.records import WINDOW_SECONDS
from avjax.errors import InputError
from avjax.runtime.signals import loading

if TYPE_CHECKING:
    from avjax.preparation.publish import Summary
    from avjax.preparation.shards import Shard

RESUMES = True


def define_flags(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines the command's flags."""

    def text(name: str, default: str | None, help_: str) -> None:
        flags.DEFINE_string(name, default, help_, flag_values=values)

    def number(name: str, default: int | None, help_: str, minimum: int = 1) -> None:
        flags.DEFINE_integer(name, default, help_, lower_bound=minimum, flag_values=values)

    def list_(name: str, help_: str) -> None:
        flags.DEFINE_list(name, None, help_, flag_values=values)

    def switch(name: str, help_: str) -> None:
        flags.DEFINE_bool(name, False, help_, flag_values=values)

    text("source", None, "RAVDESS folder; with --import_crops, the folder with the sound.")
    text("manifest", None, "CSV file of your own clips, instead of --source.")
    list_("classes", "With --manifest: the classes in order (default: sorted).")
    text("out", None, "Directory of the dataset.")
    text("profile", None, "fixed (default), or reference, as published checkpoints expect.")
    text("import_crops", None, "Folder with face crops written by the reference's scripts.")
    number("num_frames", 15, "Frames per clip.")
    flags.DEFINE_float(
        "seconds", WINDOW_SECONDS, "Length of the window.", lower_bound=0.5, flag_values=values
    )
    number("image_size", 224, "Side of a face crop in pixels.")
    number("log_mels", 0, "Bands of a log-mel spectrogram to store beside the MFCCs.", 0)
    switch("pair_video_only", "Give 02-* clips the sound of their trial, as the reference does.")
    switch(
        "songs",
        "Take RAVDESS's songs too (23 actors, six emotions), not its speech alone.",
    )
    text(
        "shard",
        None,
        "Prepare one share of the clips, such as 2/8; --merge makes the dataset.",
    )
    switch("merge", "Make the dataset of the shards beside --out.")
    number("workers", None, "Clips processed at once (default: number of cores).")
    switch("strict", "Exit with status 1 if any clip was skipped.")
    switch("debug", "Show the traceback of every clip that cannot be prepared.")


def job(values: flags.FlagValues, positional: list[str]) -> int:
    """Prepares clips, or merges shards, and prints a summary."""
    cli.no_arguments(positional)
    _check_flags(values)

    with loading():
        from avjax.preparation import shards
        from avjax.runtime import compilation

    compilation.keep_compiled_programs()
    out = Path(values.out)
    shard = shards.Shard.parse(values.shard) if values.shard else None
    summary = shards.merge(out) if values.merge else _prepare(values, out, shard)
    _report(summary, shard.directory(out) if shard else out)
    return int(values.strict and bool(summary.skipped))


def _check_flags(values: flags.FlagValues) -> None:
    """Raises InputError for missing or conflicting flags."""
    if not values.out:
        raise InputError(
            "--out is missing; for example: avjax prepare --source RAVDESS --out data/ravdess"
        )
    if values.merge + bool(values.source) + bool(values.manifest) != 1:
        raise InputError(
            "give one of --source FOLDER, --manifest FILE, and --merge, which takes the shards "
            "beside --out; see --help"
        )
    if values.merge and values.shard:
        raise InputError("--merge takes all shards; leave --shard out")
    if values.import_crops and values.profile not in (None, "reference"):
        raise InputError("imported crops have the reference profile; leave --profile out")
    if values.import_crops and values.manifest:
        raise InputError("--import_crops finds RAVDESS clips; leave --manifest out")
    if values.songs and values.manifest:
        raise InputError("--songs chooses RAVDESS clips; leave it out with --manifest")
    if values.classes and not values.manifest:
        raise InputError("--classes needs --manifest; add it")


def _prepare(values: flags.FlagValues, out: Path, shard: "Shard | None") -> "Summary":
    with loading():
        from avjax.prepare import PreparationSettings, prepare

    crops = Path(values.import_crops) if values.import_crops else None
    settings = PreparationSettings(
        values.profile or ("reference" if crops else "fixed"),
        values.num_frames,
        values.image_size,
        values.pair_video_only,
        values.seconds,
        log_mels=values.log_mels,
        songs=values.songs,
    )
    return prepare(
        Path(values.source) if values.source else None,
        out,
        settings,
        import_crops=crops,
        manifest=Path(values.manifest) if values.manifest else None,
        classes=values.classes,
        shard=shard,
        workers=values.workers,
        debug=values.debug,
    )


def _report(summary: "Summary", out: Path) -> None:
    """Prints the summary."""
    from avjax.preparation import notes
    from avjax.preparation.publish import SHEET_FILE

    for name, reason in summary.skipped.items():
        print(f"skipped {name}: {reason}")
    for name, reason in summary.incomplete.items():
        print(f"incomplete {name}: {reason} (written without it)")
    for note, clips in notes.kinds(summary.notes).items():
        named = f"{clips[0]}{', ...' if clips[1:] else ''}"
        print(f"note: {note}: {notes.counted(len(clips), 'clip')} ({named})")
    rate = summary.prepared_now / summary.seconds if summary.seconds else 0.0
    speed = f", {rate:.2f} clips per second" if summary.prepared_now else ""
    print(
        f"{out}: {notes.counted(summary.written, 'clip')} ({summary.prepared_now} prepared now in "
        f"{summary.seconds:.1f} s{speed}), {len(summary.skipped)} skipped, "
        f"{len(summary.incomplete)} incomplete, "
        f"{notes.counted(sum(summary.faceless_frames.values()), 'frame')} without a face"
    )
    if summary.phases:
        shares = ", ".join(f"{name} {seconds:.1f}" for name, seconds in summary.phases.items())
        print(f"seconds by phase, summed over threads: {shares}")
    if (out / SHEET_FILE).exists():
        print(f"contact sheet: {out / SHEET_FILE}")

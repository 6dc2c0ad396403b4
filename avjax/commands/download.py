"""Downloads RAVDESS's speech clips from Zenodo: ``avjax download --out RAVDESS``.

Writes ``RAVDESS/Actor_01`` to ``Actor_24``, each with the actor's mp4s and wavs, as
``avjax prepare --source RAVDESS`` expects them. ``--actors 1,5-8`` downloads only those (the wavs
of all actors share one zip of 0.2 GB, which is kept until the last actor is complete). An actor's
folder appears once it is complete. The same command resumes, even within a file, and skips complete
actors.
"""

from pathlib import Path

from absl import flags

from avjax import cli
from avjax.errors import InputError
from avjax.runtime.signals import loading

RESUMES = True


def define_flags(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines the command's flags."""

    def text(name: str, help_: str) -> None:
        flags.DEFINE_string(name, None, help_, flag_values=values)

    text("out", "Folder for the clips.")
    text("actors", "Only these actors, such as 1,5-8 (default: all).")
    flags.DEFINE_bool(
        "sound_only", False, "Only the wavs: one zip of 0.2 GB for all actors.", flag_values=values
    )
    flags.DEFINE_bool(
        "keep_zips", False, "Keep the zips in OUT/zips after unpacking.", flag_values=values
    )
    flags.DEFINE_integer(
        "parallel",
        2,
        "Files to fetch at once; Zenodo blocks clients that fetch many.",
        lower_bound=1,
        flag_values=values,
    )


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Downloads the actors' clips and prints a summary."""
    cli.no_arguments(positional)
    if not values.out:
        raise InputError("--out is missing; see --help")

    with loading():
        from avjax.data.folds import parse_actors
        from avjax.download import ACTORS, download

    actors = tuple(ACTORS) if values.actors is None else parse_actors(values.actors)
    out = Path(values.out)
    done = download(
        out,
        actors,
        sound_only=values.sound_only,
        parallel=values.parallel,
        keep_zips=values.keep_zips,
    )
    print(f"{out}: {len(done.actors)} actors, {len(done.brought)} of them downloaded now")

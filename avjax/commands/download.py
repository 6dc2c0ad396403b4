"""Downloads RAVDESS's speech clips from Zenodo: ``python -m avjax.download --out RAVDESS``.

Writes ``RAVDESS/Actor_01`` to ``Actor_24``, each with the actor's mp4s and wavs, as
``avjax.prepare --source RAVDESS`` expects them. ``--actors 1,5-8`` brings those alone (the wavs of
all actors share one zip of 0.2 GB, which stays until the last actor is there). An actor's folder
appears when it is whole. The same command again goes on where it stopped, in the middle of a file,
too, and does nothing once all is there.
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
    text("actors", "Some actors alone, such as 1,5-8.")
    flags.DEFINE_bool(
        "keep_zips", False, "Leave the zips in OUT/zips after unpacking.", flag_values=values
    )
    flags.DEFINE_integer(
        "parallel", 2, "Files at a time; Zenodo blocks many.", lower_bound=1, flag_values=values
    )


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Brings the actors' clips and says so."""
    cli.no_arguments(positional)
    if not values.out:
        raise InputError("--out is missing; see --help")

    with loading():
        from avjax.data.folds import parse_actors
        from avjax.download import ACTORS, download

    actors = tuple(ACTORS) if values.actors is None else parse_actors(values.actors)
    out = Path(values.out)
    done = download(out, actors, parallel=values.parallel, keep_zips=values.keep_zips)
    print(f"{out}: {len(done.actors)} actors, {len(done.brought)} of them brought now")

"""Converts a PyTorch checkpoint of EfficientFace, or of the reference's whole model, to avjax.

python tools/convert_efficientface.py SRC.pth OUT [--num-heads N] [--table]

Either format of torch.save, or safetensors, is read without PyTorch. Nothing in the file is run:
classes that are no tensors are ignored by name. A whole model
then serves avjax.load, avjax.evaluate and avjax.predict; either serves config.model.pretrained.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from avjax import cli
from avjax.errors import InputError
from avjax.runtime.signals import loading

with loading():
    from avjax.data.ravdess import EMOTIONS
    from avjax.data.records import WINDOW_SECONDS, audio_steps
    from avjax.models.networks import BACKBONE_KIND, build_network
    from avjax.models.ops.frames import NORMALISATION
    from avjax.runs.saved_model import ModelCard, save_model
    from avjax.runtime.versions import versions
    from avjax.weights.conversion import LEFT_OUT, Converted, Route, convert

MOST_NAMES = 4  # of tensors alike that are named one by one
MOST_IGNORED = 8  # classes that the summary names; --table names all


def class_names(named: list[str] | None, count: int) -> list[str]:
    """Names of the logits: those given, RAVDESS's eight emotions, or numbers.

    Raises:
      InputError: as many names as there are classes were not given.
    """
    if named is None:
        return list(EMOTIONS) if count == len(EMOTIONS) else [f"class_{i}" for i in range(count)]
    if len(set(named)) != count:
        raise InputError(f"--classes names {len(set(named))} classes; the checkpoint has {count}")
    return named


def model_card(converted: Converted, values: flags.FlagValues) -> ModelCard:
    """What avjax must know of the checkpoint beside its variables.

    Raises:
      InputError: heads that do not divide the attention's width, or too few class names.
    """
    network = dict(converted.network)
    if network["kind"] == BACKBONE_KIND:
        classes = []
        # EfficientFace itself was trained on RGB with the statistics of the fixed profile.
        profile = values.profile or "fixed"
    else:
        if network["kind"] == "audio_visual":
            network["num_heads"] = values.num_heads
        build_network(network)  # refuses heads that do not fit
        classes = class_names(values.classes, network["num_classes"])
        profile = values.profile or "reference"
    return ModelCard(
        network=network,
        classes=classes,
        profile=profile,
        num_frames=0 if network["kind"] == "audio" else values.num_frames,
        image_size=values.image_size,
        audio_steps=audio_steps(WINDOW_SECONDS),
        seconds=WINDOW_SECONDS,
        epoch=converted.epoch,
        versions=versions(),
    )


def table(routes: list[Route], ignored: Sequence[str] = ()) -> str:
    """What went where: a line per tensor, and per class that was ignored."""
    routes = [*routes, *(Route(name, (), "ignored: no tensor") for name in ignored)]
    names, shapes = [r.name for r in routes], [str(list(r.shape)) for r in routes]
    widths = max(map(len, names)), max(map(len, shapes))
    return "\n".join(
        f"{route.name:{widths[0]}}  {shape:{widths[1]}}  {route.target}"
        for route, shape in zip(routes, shapes, strict=True)
    )


def summary(converted: Converted, card: ModelCard, out: Path) -> str:
    """What the checkpoint holds and what was left out, in a few lines."""
    left_out: dict[str, list[str]] = {}
    for route in converted.routes:
        if route.target.startswith(LEFT_OUT):
            left_out.setdefault(route.target, []).append(route.name)
    moved = len(converted.routes) - sum(map(len, left_out.values()))
    lines = [f"{moved} tensors went into {out}"]
    lines += [f"{_named(names)} {reason}" for reason, names in left_out.items()]
    if converted.ignored:
        more = len(converted.ignored) - MOST_IGNORED
        shown = [*converted.ignored[:MOST_IGNORED], *([f"{more} more"] if more > 0 else [])]
        lines.append(f"ignored: {', '.join(shown)}")
    if converted.choice:
        lines.append(converted.choice)
    network = card.network
    if network["kind"] == BACKBONE_KIND:
        lines.append("EfficientFace backbone; train from it with --config.model.pretrained")
        return "\n".join(lines)
    named = f"fusion {network['fusion']}" if "fusion" in network else f"{network['kind']} alone"
    lines.append(
        f"{named}, {network['num_classes']} classes ({', '.join(card.classes)}), profile "
        f"{card.profile}, epoch {card.epoch or 'unknown'}"
    )
    if "num_heads" in network:
        lines.append(
            f"attention heads: {network['num_heads']} as told by --num-heads; the tensors are the "
            "same for any number of heads, so a wrong one shows in the accuracy alone"
        )
    return "\n".join(lines)


def _named(names: list[str]) -> str:
    """Tensors by name; those of a last name that many share by that name."""
    by_end: dict[str, list[str]] = {}
    for name in names:
        by_end.setdefault(name.rpartition(".")[2], []).append(name)
    return ", ".join(
        f"{len(alike)} tensors *.{end}" if len(alike) > MOST_NAMES else ", ".join(alike)
        for end, alike in by_end.items()
    )


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags."""
    flags.DEFINE_integer(
        "num_heads", 1, "Attention heads that the model was trained with; cannot be seen in the "
        "tensors.", 1, flag_values=values,
    )  # fmt: skip
    flags.DEFINE_enum(
        "profile", None, list(NORMALISATION), "How its clips were prepared: reference (default "
        "for a whole model) or fixed.", flag_values=values,
    )  # fmt: skip
    flags.DEFINE_list(
        "classes", None, "Names of the classes, if not RAVDESS's.", flag_values=values
    )
    flags.DEFINE_bool("table", False, "List every tensor and where it went.", flag_values=values)
    flags.DEFINE_integer("num_frames", 15, "Frames of a clip.", 1, flag_values=values)
    flags.DEFINE_integer("image_size", 224, "Side of a frame in pixels.", 1, flag_values=values)


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Converts one file."""
    if len(positional) != 2:
        raise InputError("give a PyTorch checkpoint and a directory for the result: SRC.pth OUT")
    source, out = positional[0], Path(positional[1])
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} exists; choose another directory, or remove it")
    converted = convert(source)
    card = model_card(converted, values)
    save_model(out, converted.variables, card)
    print(summary(converted, card, out))
    if values.table:
        print(f"\n{table(converted.routes, converted.ignored)}")


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    return cli.run(argv, define_flags, job, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())

"""Converts a PyTorch checkpoint of EfficientFace or of the reference's model to avjax.

python tools/convert_efficientface.py SRC.pth OUT [--num-heads N] [--table]

Reads both formats of torch.save, and safetensors, without PyTorch, and runs no code from the file:
objects of other classes are ignored and named. Use a converted model with avjax.load,
avjax.evaluate, avjax.predict and config.model.pretrained, a converted EfficientFace with
config.model.pretrained.
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

MAX_NAMES = 4  # summarise longer lists of similar tensors
MAX_IGNORED = 8  # classes that the summary names; --table names all


def class_names(given: list[str] | None, count: int) -> list[str]:
    """Returns class names: those given, RAVDESS's eight emotions, or numbered ones.

    Raises:
      InputError: the number of given names is not the number of classes.
    """
    if given is None:
        return list(EMOTIONS) if count == len(EMOTIONS) else [f"class_{i}" for i in range(count)]
    if len(set(given)) != count:
        raise InputError(f"--classes names {len(set(given))} classes; the checkpoint has {count}")
    return given


def model_card(converted: Converted, values: flags.FlagValues) -> ModelCard:
    """Returns the checkpoint's model card.

    Raises:
      InputError: the heads do not divide the attention's width, or the number of class names is
        wrong.
    """
    network = dict(converted.network)
    if network["kind"] == BACKBONE_KIND:
        classes = []
        # EfficientFace was trained on RGB normalised as in the fixed profile.
        profile = values.profile or "fixed"
    else:
        if network["kind"] == "audio_visual":
            network["num_heads"] = values.num_heads
        build_network(network)  # checks the number of heads
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
    """Returns one line per tensor (name, shape, target) and per ignored class."""
    routes = [*routes, *(Route(name, (), "ignored: no tensor") for name in ignored)]
    names, shapes = [r.name for r in routes], [str(list(r.shape)) for r in routes]
    widths = max(map(len, names)), max(map(len, shapes))
    return "\n".join(
        f"{route.name:{widths[0]}}  {shape:{widths[1]}}  {route.target}"
        for route, shape in zip(routes, shapes, strict=True)
    )


def summary(converted: Converted, card: ModelCard, out: Path) -> str:
    """Describes the converted model and the tensors left out."""
    left_out: dict[str, list[str]] = {}
    for route in converted.routes:
        if route.target.startswith(LEFT_OUT):
            left_out.setdefault(route.target, []).append(route.name)
    converted_count = len(converted.routes) - sum(map(len, left_out.values()))
    lines = [f"{converted_count} tensors went into {out}"]
    lines += [f"{_named(names)} {reason}" for reason, names in left_out.items()]
    if converted.ignored:
        more = len(converted.ignored) - MAX_IGNORED
        shown = [*converted.ignored[:MAX_IGNORED], *([f"{more} more"] if more > 0 else [])]
        lines.append(f"ignored: {', '.join(shown)}")
    if converted.choice:
        lines.append(converted.choice)
    network = card.network
    if network["kind"] == BACKBONE_KIND:
        lines.append("EfficientFace backbone; train from it with --config.model.pretrained")
        return "\n".join(lines)
    description = (
        f"fusion {network['fusion']}" if "fusion" in network else f"{network['kind']} alone"
    )
    lines.append(
        f"{description}, {network['num_classes']} classes ({', '.join(card.classes)}), profile "
        f"{card.profile}, epoch {card.epoch or 'unknown'}"
    )
    if "num_heads" in network:
        lines.append(
            f"attention heads: {network['num_heads']} from --num-heads; the tensors are the "
            "same for any number of heads, so a wrong number shows only in the accuracy"
        )
    return "\n".join(lines)


def _named(names: list[str]) -> str:
    """Lists tensor names; many names with the same last part become one entry."""
    by_suffix: dict[str, list[str]] = {}
    for name in names:
        by_suffix.setdefault(name.rpartition(".")[2], []).append(name)
    return ", ".join(
        f"{len(group)} tensors *.{suffix}" if len(group) > MAX_NAMES else ", ".join(group)
        for suffix, group in by_suffix.items()
    )


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags."""
    flags.DEFINE_integer(
        "num_heads", 1, "Attention heads of the trained model; the tensors do not tell.", 1,
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_enum(
        "profile", None, list(NORMALISATION), "Profile of its training clips: reference (default "
        "for the reference's model) or fixed.", flag_values=values,
    )  # fmt: skip
    flags.DEFINE_list(
        "classes", None, "Names of the classes, if not RAVDESS's.", flag_values=values
    )
    flags.DEFINE_bool("table", False, "List every tensor and its target.", flag_values=values)
    flags.DEFINE_integer("num_frames", 15, "Frames in a clip.", 1, flag_values=values)
    flags.DEFINE_integer("image_size", 224, "Frame size in pixels.", 1, flag_values=values)


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Converts one checkpoint."""
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
    """Runs the command line."""
    return cli.run(argv, define_flags, job, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())

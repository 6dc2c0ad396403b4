"""Exports a model for other programs: ``avjax export RUN OUT --format onnx``.

RUN is a run (its best epoch), a converted checkpoint, or a model that avjax carries, such as voice.
OUT is a folder. It gets the model's file and a README.md that says what goes in and what comes out.
Formats: stablehlo (runs by JAX, or any compiler of StableHLO, on CPU, CUDA and TPU), onnx (needs
jax2onnx), safetensors, pytorch (a state_dict for the reference's model).
"""

from absl import flags

from avjax.errors import InputError
from avjax.runtime.signals import loading

RESUMES = False


def define_flags(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string(
        "format", "stablehlo", "stablehlo, onnx, safetensors or pytorch.", flag_values=values
    )


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Exports one model."""
    if len(positional) != 2:
        raise InputError("name a model and a folder: avjax export RUN OUT --format stablehlo")

    with loading():
        from avjax.export import export_model

    path, out = positional
    file = export_model(path, out, values.format)
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB; {file.parent / 'README.md'} describes it")

"""Makes the voice model that avjax carries, from all 24 actors of RAVDESS's speech.

avjax download --out RAVDESS --sound_only
avjax prepare --source RAVDESS --out DATA --log_mels 128
python tools/make_voice.py --data DATA --workdir RUNS

Trains six folds of configs/audio_only_strong.py (msaf6: four actors tested, four validated, sixteen
trained) for each number of epochs (--epochs), and takes the number whose last epochs are best on
the validation actors. Their predictions of the test actors, each of whom one fold tests, give the
model's accuracy and temperature. Then trains on all actors for as many epochs; the last epoch is
the model, since no actor is left to choose another by. The same command resumes.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

from avjax import cli
from avjax.errors import InputError
from avjax.runtime.signals import loading

with loading():
    from avjax.config import RunConfig
    from avjax.crossval import cross_validate
    from avjax.data.folds import list_folds, resolve_fold
    from avjax.data.pipeline import open_dataset
    from avjax.predict import Model
    from avjax.runs.run_folder import RunFolder
    from avjax.runs.saved_model import BEST, CARRIED, ModelCard, load_model, save_model
    from avjax.runtime import compilation
    from avjax.runtime.files import write_text
    from avjax.train import build, train
    from avjax.training.calibration import calibration_error, fit_temperature, tempered
    from configs import audio_only_strong

FOLDS, SEED = "msaf6", 0
ALL_ACTORS = "train: ; validation: actor=24; test: actor=24"
ABOUT = {
    "name": "voice",
    "data": "RAVDESS, 1440 spoken clips of 24 actors, North American English (Livingstone and "
    "Russo 2018, https://doi.org/10.5281/zenodo.1188976)",
    "licence": "CC BY-NC-SA 4.0, as the data",
    "limits": "acted speech in eight classes; it does not tell what people feel, and is not for "
    "decisions about them",
}
README = """# The voice model

Tells one of eight acted emotions from the sound of a voice. `avjax predict clip.wav` and
`avjax.load("voice")` use it.

- **Data**: {data}.
- **Licence**: {licence}; see LICENSE. avjax itself is under the MIT licence.
- **Accuracy**: {accuracy}.
- **Limits**: {limits}.
- **Calibration**: temperature {temperature:.3f}; expected calibration error {raw:.3f} without it,
  {calibrated:.3f} with that of the other folds.
- **Network**: `configs/audio_only_strong.py`, {epochs} epochs, no validation.

| class | clips | recognised |
| --- | --- | --- |
{rows}

The figures are those of six models made by the same recipe, each trained on 16 actors and tested on
4 others; this one is trained on all 24. Command: `tools/make_voice.py`.
"""


class Predictions(NamedTuple):
    """Logits [n, k] and classes [n] of clips, by a model that never heard their actors."""

    logits: np.ndarray
    labels: np.ndarray

    @property
    def hits(self) -> np.ndarray:
        """Whether each clip is classified correctly; [n]."""
        return self.logits.argmax(1) == self.labels


def make(config: RunConfig, candidates: Sequence[int], workdir: Path, out: Path) -> None:
    """Trains, chooses the number of epochs, and writes the model with its README."""
    scores, tested = {}, {}
    for epochs in candidates:
        runs, folder = _with_epochs(config, epochs), workdir / f"epochs_{epochs}"
        cross_validate(runs, folder, FOLDS, [SEED])
        models = _fold_models(runs, folder)
        validated = _joined(_predict(models, "validation", config.data.dir))
        scores[epochs] = float(validated.hits.mean())
        tested[epochs] = _predict(models, "test", config.data.dir)
        print(f"{epochs} epochs: {scores[epochs]:.2%} of the validation actors' clips")
    epochs = max(scores, key=scores.__getitem__)

    final = _with_epochs(config, epochs).with_fold(ALL_ACTORS, SEED)
    train(final, workdir / "all")
    model = _last_epoch(final, workdir / "all")
    card = _card(model.card, epochs, _joined(tested[epochs]))
    save_model(out, model.variables, card)
    write_text(out / "README.md", _readme(card, tested[epochs]))
    print(f"{out}: {card.about['accuracy']}")


def _with_epochs(config: RunConfig, epochs: int) -> RunConfig:
    return dataclasses.replace(config, loop=dataclasses.replace(config.loop, num_epochs=epochs))


def _fold_models(config: RunConfig, workdir: Path) -> dict[str, Model]:
    """Returns the last epoch's model of each fold."""
    return {
        fold: _last_epoch(
            config.with_fold(fold, SEED), workdir / f"{fold.replace('/', '-')}-seed{SEED}"
        )
        for fold in list_folds(FOLDS)
    }


def _last_epoch(config: RunConfig, workdir: Path) -> Model:
    """Returns the model at the end of a training, not the best one on its validation clips."""
    with RunFolder(workdir) as run:
        progress = run.restore(build(config).start)
    _, card = load_model(workdir / BEST)
    return Model(progress.state.variables, card)


def _predict(models: Mapping[str, Model], split: str, data: str) -> list[Predictions]:
    """Returns the predictions of each fold's model for a split of that fold."""
    dataset, predictions = open_dataset(data), []
    for fold, model in models.items():
        clips = dataset.select(resolve_fold(fold)[split], model.net.inputs)
        spectra = clips.columns["audio"][: len(clips)]  # the last row is padding
        predictions.append(Predictions(model.logits(spectra), clips.labels))
    return predictions


def _joined(predictions: Sequence[Predictions]) -> Predictions:
    return Predictions(*map(np.concatenate, zip(*predictions, strict=True)))


def _card(card: ModelCard, epochs: int, tested: Predictions) -> ModelCard:
    """Returns the card of the final model, with what the folds' models showed."""
    accuracy, clips = float(tested.hits.mean()), len(tested.labels)
    chance = 1 / len(card.classes)
    heard = (
        f"{accuracy:.1%} of {clips} clips, each by a model of the same recipe that never heard the "
        f"actor (chance is {chance:.1%}); this one is trained on all of them"
    )
    return dataclasses.replace(
        card,
        epoch=epochs,
        metrics={},
        temperatures={"audio": fit_temperature(*tested)},
        about=ABOUT | {"accuracy": heard},
    )


def _readme(card: ModelCard, folds: Sequence[Predictions]) -> str:
    """Returns the model's README."""
    tested = _joined(folds)
    rows = [
        f"| {name} | {(tested.labels == k).sum()} | {tested.hits[tested.labels == k].mean():.1%} |"
        for k, name in enumerate(card.classes)
    ]
    return README.format(
        **card.about,
        temperature=card.temperatures["audio"],
        raw=calibration_error(tempered(tested.logits, 1.0), tested.labels),
        calibrated=calibration_error(_calibrated(folds), tested.labels),
        epochs=card.epoch,
        rows="\n".join(rows),
    )


def _calibrated(folds: Sequence[Predictions]) -> np.ndarray:
    """Returns probabilities [n, k] at the temperature of the other folds' predictions."""
    probabilities = []
    for number, fold in enumerate(folds):
        others = _joined([other for k, other in enumerate(folds) if k != number])
        probabilities.append(tempered(fold.logits, fit_temperature(*others)))
    return np.concatenate(probabilities)


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags."""
    for name, default, help_ in (
        ("data", None, "The prepared dataset."),
        ("workdir", None, "Folder for the runs."),
        ("out", str(CARRIED / ABOUT["name"]), "Folder of the model."),
    ):
        flags.DEFINE_string(name, default, help_, flag_values=values)
    flags.DEFINE_list("epochs", "40", "Numbers of epochs to choose from.", flag_values=values)


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Trains, chooses, and writes the model with its README."""
    cli.no_arguments(positional)
    if not values.data or not values.workdir:
        raise InputError("--data or --workdir is missing; see --help")
    compilation.keep_compiled_programs()
    config = RunConfig.from_tree(audio_only_strong.get_config())
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, dir=values.data))
    make(config, [int(text) for text in values.epochs], Path(values.workdir), Path(values.out))


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    return cli.run(argv, define_flags, job, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())

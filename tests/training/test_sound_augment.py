"""Augmentation of log-mel spectrograms."""

import jax
import numpy as np
import pytest

from avjax.errors import InputError
from avjax.training.augment import SoundAugmentation, augment_sound

KEY = jax.random.key(0)
SPECTRA = np.random.default_rng(0).uniform(1, 9, (6, 20, 8)).astype(np.float32)
FULL = SoundAugmentation(4.0, 0.1)


def test_default_changes_nothing():
    assert not SoundAugmentation().changes_spectra
    np.testing.assert_array_equal(augment_sound(KEY, SPECTRA, SoundAugmentation()), SPECTRA)


@pytest.mark.parametrize("name", ["shift", "warp"])
def test_augmentation_depends_only_on_the_row_and_keeps_silence(name):
    amount = SoundAugmentation(**{name: getattr(FULL, name)})
    augmented = np.asarray(augment_sound(KEY, SPECTRA, amount))
    assert augmented.shape == SPECTRA.shape
    assert np.isfinite(augmented).all()
    assert (augmented != SPECTRA).any((1, 2)).sum() >= 5
    np.testing.assert_allclose(augment_sound(KEY, SPECTRA[:3], amount), augmented[:3], rtol=1e-5)
    np.testing.assert_allclose(augment_sound(KEY, 0 * SPECTRA, amount), 0, atol=1e-6)


def test_shift_moves_a_ramp_in_time():
    ramp = np.broadcast_to(np.arange(50.0)[:, None], (30, 50, 2)).astype(np.float32)
    shifted = np.asarray(augment_sound(KEY, ramp, SoundAugmentation(shift=5.0)))[:, 10:40, 0]
    steps = shifted - np.arange(10, 40)
    np.testing.assert_allclose(steps, np.broadcast_to(steps[:, :1], steps.shape), atol=1e-4)
    assert 3 < np.abs(steps[:, 0]).max() <= 5


def test_negative_amount_is_refused():
    with pytest.raises(InputError, match=r"config\.sound_augment\.warp=-0\.1; choose 0 or more"):
        SoundAugmentation(warp=-0.1)

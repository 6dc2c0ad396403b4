"""Changes of spectra, one by one, and mixing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.training.sound_augment import SoundAugmentation, augment_sound, mixup

KEY = jax.random.key(0)
SPECTRA = np.random.default_rng(0).uniform(1, 9, (6, 20, 8)).astype(np.float32)
FULL = SoundAugmentation(0.1, 4.0, 0.1, 0.5, 6.0, 3.0)


def test_nothing_changes_by_default():
    assert not SoundAugmentation(mixup=0.5).changes_spectra
    np.testing.assert_array_equal(augment_sound(KEY, SPECTRA, SoundAugmentation()), SPECTRA)


@pytest.mark.parametrize("name", ["stretch", "shift", "warp", "gain", "time_mask", "band_mask"])
def test_each_change_depends_on_its_row_alone_and_leaves_silence(name):
    amount = SoundAugmentation(**{name: getattr(FULL, name)})
    changed = np.asarray(augment_sound(KEY, SPECTRA, amount))
    assert changed.shape == SPECTRA.shape
    assert np.isfinite(changed).all()
    assert (changed != SPECTRA).any((1, 2)).sum() >= 5
    np.testing.assert_allclose(augment_sound(KEY, SPECTRA[:3], amount), changed[:3], rtol=1e-5)
    np.testing.assert_allclose(augment_sound(KEY, 0 * SPECTRA, amount), 0, atol=1e-6)


def test_a_shift_moves_a_ramp_by_its_steps():
    ramp = np.broadcast_to(np.arange(50.0)[:, None], (30, 50, 2)).astype(np.float32)
    moved = np.asarray(augment_sound(KEY, ramp, SoundAugmentation(shift=5.0)))[:, 10:40, 0]
    steps = moved - np.arange(10, 40)
    np.testing.assert_allclose(steps, np.broadcast_to(steps[:, :1], steps.shape), atol=1e-4)
    assert 3 < np.abs(steps[:, 0]).max() <= 5


def test_gain_scales_the_power():
    louder = np.asarray(augment_sound(KEY, SPECTRA, SoundAugmentation(gain=0.5)))
    ratio = np.expm1(louder) / np.expm1(SPECTRA)
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1], ratio.shape), rtol=1e-3)
    assert 0.3 < np.abs(np.log(ratio[:, 0, 0])).max() <= 0.5


def test_masks_silence_one_range():
    masked = np.asarray(augment_sound(KEY, SPECTRA, SoundAugmentation(time_mask=6, band_mask=3)))
    silent_steps = (masked == 0).all(2).sum(1)
    silent_bands = (masked == 0).all(1).sum(1)
    assert silent_steps.max() in range(2, 8)
    assert silent_bands.max() in range(1, 5)
    for x, steps, bands in zip(masked, silent_steps, silent_bands, strict=True):
        assert (x == 0).sum() == steps * 8 + bands * 20 - steps * bands


def test_mixing_takes_the_neighbour_and_at_most_half_of_it():
    targets = np.eye(6, dtype=np.float32)
    mixed, soft = mixup(KEY, SPECTRA, targets, jnp.ones(6), 1.0)
    share = np.diag(soft)
    assert (share >= 0.5).all()
    assert len(set(share.tolist())) == 6
    partner = [1, 0, 3, 2, 5, 4]
    np.testing.assert_allclose(
        soft, targets * share[:, None] + targets[partner] * (1 - share)[:, None]
    )
    expected = SPECTRA * share[:, None, None] + SPECTRA[partner] * (1 - share)[:, None, None]
    np.testing.assert_allclose(mixed, expected, rtol=1e-5)
    # A device with the first two rows draws the same.
    np.testing.assert_allclose(mixup(KEY, SPECTRA[:2], targets[:2], jnp.ones(2), 1.0)[0], mixed[:2])


def test_padding_is_mixed_with_nothing():
    weight = jnp.array([1.0, 1, 1, 1, 1, 0])
    mixed, soft = mixup(KEY, SPECTRA, np.eye(6, dtype=np.float32), weight, 1.0)
    np.testing.assert_array_equal(mixed[4], SPECTRA[4])
    np.testing.assert_array_equal(soft[4], np.eye(6)[4])

"""Optimizers and learning rate schedules; SGD equals PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from avjax.errors import InputError
from avjax.training.optimizer import adamw, cosine_schedule, sgd, step_schedule


def pytorch_sgd(parameter, gradients, rates, momentum, dampening, weight_decay):
    """Updates a parameter as in torch.optim.SGD's documentation."""
    buffer = None
    for gradient, rate in zip(gradients, rates, strict=True):
        decayed = gradient + weight_decay * parameter
        if buffer is None:
            buffer = decayed
        else:
            buffer = momentum * buffer + (1 - dampening) * decayed
        parameter = parameter - rate * buffer
    return parameter


@pytest.mark.parametrize("dampening", [0.0, 0.9])
def test_five_sgd_updates_equal_pytorch(dampening):
    rng = np.random.default_rng(0)
    start, gradients = rng.standard_normal(4), rng.standard_normal((5, 4))
    settings = {"momentum": 0.9, "dampening": dampening, "weight_decay": 1e-3}
    schedule = step_schedule(0.04, [2], steps_per_epoch=3)
    optimizer = sgd(schedule, trained={"w": True}, **settings)
    params = {"w": jnp.asarray(start, jnp.float32)}
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update({"w": jnp.asarray(gradient, jnp.float32)}, state, params)
        params = optax.apply_updates(params, updates)
    rates = [0.04, 0.04, 0.04, 0.004, 0.004]
    expected = pytorch_sgd(start, gradients, rates, **settings)
    np.testing.assert_allclose(params["w"], expected, rtol=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize("dampening", [0.0, 0.9])
def test_explicit_sgd_equals_pytorch(dampening, torch):
    rng = np.random.default_rng(1)
    start, gradients = rng.standard_normal(4), rng.standard_normal((5, 4))
    settings = {"momentum": 0.9, "dampening": dampening, "weight_decay": 1e-3}
    parameter = torch.nn.Parameter(torch.tensor(start))
    optimizer = torch.optim.SGD([parameter], lr=0.04, **settings)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    expected = pytorch_sgd(start, gradients, [0.04] * 5, **settings)
    np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-12)


def test_untrained_parameters_do_not_decay():
    optimizer = sgd(
        1.0, momentum=0.9, dampening=0.9, weight_decay=0.5, trained={"used": True, "frozen": False}
    )
    params = {"used": jnp.ones(2), "frozen": jnp.ones(2)}
    gradients = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["frozen"], 0)
    np.testing.assert_array_equal(updates["used"], -0.5)


def test_learning_rate_drops_at_the_first_step_of_each_milestone_epoch():
    schedule = step_schedule(0.04, [40, 55], steps_per_epoch=10)
    rates = [float(schedule(step)) for step in (0, 389, 390, 539, 540)]
    np.testing.assert_allclose(rates, [0.04, 0.04, 0.004, 0.004, 0.0004], rtol=1e-5)


def test_cosine_schedule_warms_up_and_ends_at_zero():
    schedule = cosine_schedule(0.2, warmup_epochs=2, num_epochs=6, steps_per_epoch=5)
    rates = [float(schedule(step)) for step in (0, 5, 10, 20, 30)]
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.1, 0], atol=1e-6)
    with pytest.raises(InputError, match="warmup_epochs=6 of 6 epochs"):
        cosine_schedule(0.2, warmup_epochs=6, num_epochs=6, steps_per_epoch=5)


def test_adamw_decays_only_kernels_and_clips_gradients():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2), "frozen": jnp.ones(2)}
    trained = {"kernel": True, "bias": True, "frozen": False}
    optimizer = adamw(0.1, weight_decay=0.5, trained=trained)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], 0)
    np.testing.assert_array_equal(updates["frozen"], 0)
    # A huge gradient is clipped, so Adam's second moment does not suppress the small one after it.
    state = optimizer.init(params)
    for size in (1e6, 1.0):
        gradients = jax.tree.map(lambda x, size=size: jnp.full_like(x, size), params)
        updates, state = optimizer.update(gradients, state, params)
    assert abs(float(updates["bias"][0])) > 0.05

"""Layers: equality with PyTorch, including gradients and default initialisers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.models import ops
from avjax.models.ops import Map, Rows, layers

# name: (avjax's module, its options, PyTorch's class, its arguments, input shape)
CONVOLUTIONS = {
    "first": (layers.Conv2d, dict(features=6, kernel_size=3, stride=2, padding=1, use_bias=False),
              "Conv2d", (3, 6, 3, 2, 1), dict(bias=False), (2, 9, 12, 3)),
    "dilated": (layers.Conv2d, dict(features=5, kernel_size=3, padding=4, dilation=4),
                "Conv2d", (4, 5, 3, 1, 4, 4), {}, (2, 10, 11, 4)),
    "pointwise": (layers.Conv1x1, dict(features=5, use_bias=True),
                  "Conv2d", (4, 5, 1), {}, (2, 6, 7, 4)),
    "depthwise": (layers.DepthwiseConv, dict(), "Conv2d", (6, 6, 3, 1, 1),
                  dict(groups=6, bias=False), (3, 7, 8, 6)),
    "strided depthwise": (layers.DepthwiseConv, dict(stride=2), "Conv2d", (6, 6, 3, 2, 1),
                          dict(groups=6, bias=False), (3, 8, 10, 6)),
    "multiplied depthwise": (layers.DepthwiseConv, dict(multiplier=4, stride=2), "Conv2d",
                             (3, 12, 3, 2, 1), dict(groups=3, bias=False), (2, 8, 8, 3)),
    "temporal": (layers.Conv1d, dict(features=7), "Conv1d", (4, 7, 3), {}, (2, 13, 4)),
    "same temporal": (layers.Conv1d, dict(features=7, padding=1), "Conv1d", (4, 7, 3, 1, 1), {},
                      (2, 1, 4)),
    "dense": (layers.Dense, dict(features=7), "Linear", (5, 7), {}, (2, 4, 5)),
}  # fmt: skip


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def layer_input(module, x):
    """Returns the layer's input: an array, or a map with rows as in training."""
    x = jnp.asarray(x)
    return x if isinstance(module, layers.Dense) else Map(x, rows=Rows(jnp.ones(len(x))))


def arrays(y):
    return ops.values(y) if isinstance(y, Map) else y


def channels_first(x):
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))


def assert_close(actual, expected, **tolerance):
    expected = expected.detach().numpy()
    np.testing.assert_allclose(actual, expected, **{"rtol": 2e-5, "atol": 2e-5, **tolerance})


def torch_kernel(kernel, pointwise=False):
    """Returns an avjax kernel in PyTorch's order: outputs, inputs, window."""
    if kernel.ndim == 2:
        return kernel.T[:, :, None, None] if pointwise else kernel.T
    if kernel.ndim == 3 and kernel.shape[:2] == (3, 3):  # depthwise
        return kernel.transpose(2, 0, 1)[:, None]
    return np.moveaxis(kernel, (-1, -2), (0, 1))


@pytest.mark.torch
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_and_their_gradients_equal_pytorch(name, rng, torch):
    layer, options, kind, arguments, keywords, shape = CONVOLUTIONS[name]
    module, reference = layer(**options), getattr(torch.nn, kind)(*arguments, **keywords)
    order = (lambda x: x) if kind == "Linear" else channels_first
    pointwise = layer is layers.Conv1x1

    def apply(params, x):
        return arrays(module.apply({"params": params}, layer_input(module, x)))

    x = rng.standard_normal(shape).astype(np.float32)
    params = jax.tree.map(
        np.asarray, module.init(jax.random.key(1), layer_input(module, x))["params"]
    )
    with torch.no_grad():
        reference.weight.copy_(torch.tensor(torch_kernel(params["kernel"], pointwise)))
        if "bias" in params:
            reference.bias.copy_(torch.tensor(params["bias"]))
    x_torch = torch.tensor(order(x), requires_grad=True)
    expected = reference(x_torch)
    y, vjp_fn = jax.vjp(apply, params, x)
    assert_close(order(np.asarray(y)), expected)

    dy = rng.standard_normal(y.shape).astype(np.float32)
    expected.backward(torch.tensor(order(dy)))
    gradients, dx = vjp_fn(jnp.asarray(dy))
    assert_close(order(np.asarray(dx)), x_torch.grad, atol=1e-4)
    assert_close(
        torch_kernel(np.asarray(gradients["kernel"]), pointwise), reference.weight.grad, atol=1e-4
    )
    if "bias" in params:
        assert_close(gradients["bias"], reference.bias.grad, atol=1e-4)


@pytest.mark.torch
@pytest.mark.parametrize("relu", [False, True])
def test_batch_norm_equals_pytorch(relu, rng, torch):
    """Two training steps, their running statistics, and inference."""
    module, reference = layers.BatchNorm(), torch.nn.BatchNorm2d(4)
    activate = torch.relu if relu else (lambda y: y)
    variables = module.init(jax.random.key(0), Map(np.zeros((1, 1, 1, 4), np.float32)))
    params = jax.tree.map(lambda x: rng.uniform(0.5, 2, x.shape).astype("f4"), variables["params"])
    with torch.no_grad():
        reference.weight.copy_(torch.tensor(params["scale"]))
        reference.bias.copy_(torch.tensor(params["bias"]))
    stats = variables["batch_stats"]
    for _ in range(2):
        x = (3 + 2 * rng.standard_normal((3, 5, 6, 4))).astype(np.float32)
        dy = rng.standard_normal(x.shape).astype(np.float32)
        x_torch = torch.tensor(channels_first(x), requires_grad=True)
        expected = activate(reference(x_torch))
        reference.zero_grad()
        expected.backward(torch.tensor(channels_first(dy)))

        def apply(params, x, stats=stats):
            variables = {"params": params, "batch_stats": stats}
            m = Map(jnp.asarray(x), rows=Rows(jnp.ones(len(x))))
            y, updated = module.apply(variables, m, mutable="batch_stats")
            return ops.values(ops.relu(y) if relu else y), updated

        y, vjp_fn, updated = jax.vjp(apply, params, x, has_aux=True)
        gradients, dx = vjp_fn(jnp.asarray(dy))
        stats = updated["batch_stats"]
        assert_close(channels_first(np.asarray(y)), expected)
        assert_close(channels_first(np.asarray(dx)), x_torch.grad)
        assert_close(gradients["scale"], reference.weight.grad, atol=1e-4)
        assert_close(gradients["bias"], reference.bias.grad, atol=1e-4)
    assert_close(stats["mean"], reference.running_mean)
    assert_close(stats["var"], reference.running_var)
    y = module.apply({"params": params, "batch_stats": stats}, Map(jnp.asarray(x)))
    y = ops.values(ops.relu(y) if relu else y)
    assert_close(
        channels_first(np.asarray(y)), activate(reference.eval()(torch.tensor(channels_first(x))))
    )


@pytest.mark.torch
@pytest.mark.parametrize("name", ["image", "time"])
def test_max_pooling_and_its_gradient_equal_pytorch(name, rng, torch):
    """Rounded values have ties: PyTorch gives the gradient to the first maximum."""
    if name == "image":
        pool, reference, shape = ops.max_pool, torch.nn.MaxPool2d(3, 2, 1), (2, 8, 10, 3)
    else:
        pool, reference, shape = ops.max_pool_time, torch.nn.MaxPool1d(2, 1), (2, 9, 3)
    x = rng.integers(0, 4, shape).astype(np.float32)
    y, vjp_fn = jax.vjp(lambda x: ops.values(pool(x)), jnp.asarray(x))
    dy = rng.standard_normal(y.shape).astype(np.float32)
    x_torch = torch.tensor(channels_first(x), requires_grad=True)
    expected = reference(x_torch)
    expected.backward(torch.tensor(channels_first(dy)))
    assert_close(channels_first(np.asarray(y)), expected, rtol=0, atol=0)
    assert_close(channels_first(np.asarray(vjp_fn(jnp.asarray(dy))[0])), x_torch.grad, atol=1e-6)


@pytest.mark.torch
def test_layer_norm_and_gelu_equal_pytorch(rng, torch):
    x = (5 + rng.standard_normal((2, 7, 16))).astype(np.float32)
    y = layers.layer_norm().init_with_output(jax.random.key(0), x)[0]
    assert_close(y, torch.nn.LayerNorm(16)(torch.tensor(x)))
    assert_close(jax.nn.gelu(x, approximate=False), torch.nn.functional.gelu(torch.tensor(x)))


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_initial_weights_are_uniform_within_pytorch_bounds(name):
    module, options, _, _, _, shape = CONVOLUTIONS[name]
    options = {**options, "features": 400} if "features" in options else options
    x = jnp.zeros((*shape[:-1], 64))
    params = module(**options).init(jax.random.key(0), layer_input(module(**options), x))["params"]
    kernel = params["kernel"]
    depthwise = module is layers.DepthwiseConv
    bound = (9 if depthwise else kernel.size / kernel.shape[-1]) ** -0.5
    for weights in params.values():
        assert 0.95 * bound < np.abs(weights).max() <= bound
        assert np.std(weights) == pytest.approx(bound / 3**0.5, rel=0.15)
        assert abs(np.mean(weights)) < 0.2 * bound


def test_running_variance_ignores_statistics_of_a_single_value():
    module = layers.BatchNorm()
    variables = module.init(jax.random.key(0), Map(jnp.zeros((1, 3))))
    m = Map(jnp.ones((2, 3)), rows=Rows(jnp.array([1.0, 0.0])))
    _, updated = module.apply(variables, m, mutable="batch_stats")
    np.testing.assert_array_equal(updated["batch_stats"]["var"], jnp.ones(3))
    np.testing.assert_allclose(updated["batch_stats"]["mean"], jnp.full(3, 0.1), rtol=1e-6)

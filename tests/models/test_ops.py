"""Operations and their gradients equal XLA's on explicit maps, in every form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from avjax.models import ops
from avjax.models.ops import Dimmed, Map, Rows

RNG = np.random.default_rng(0)
KINDS = tuple(ops.FORMS)


def normal(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def assert_same_function(actual, expected, *arguments):
    """Compares the functions' values, and the gradients of a random projection."""
    projection = normal(*jax.eval_shape(actual, *arguments).shape)
    assert jax.eval_shape(expected, *arguments).shape == projection.shape

    def loss(function):
        return lambda *a: (function(*a) * projection).sum()

    positions = tuple(range(len(arguments)))
    np.testing.assert_allclose(actual(*arguments), expected(*arguments), rtol=1e-4, atol=1e-4)
    actual_gradients = jax.jit(jax.grad(loss(actual), positions))(*arguments)
    expected_gradients = jax.jit(jax.grad(loss(expected), positions))(*arguments)
    for a, b in zip(actual_gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def xla_conv(x, kernel, stride=1, padding=0, dilation=1, groups=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def xla_conv1d(x, kernel, padding=0):
    dimensions = ("NHC", "HIO", "NHC")
    return lax.conv_general_dilated(
        x, kernel, (1,), [(padding, padding)], dimension_numbers=dimensions
    )


def xla_depthwise(x, kernel, stride=1):
    return xla_conv(x, kernel[:, :, None], stride, 1, groups=x.shape[-1])


def xla_pool(x):
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)


# name: (operation on a map and a kernel, the same on an array, shape of the map, of the kernel)
READERS = {
    "conv1x1": (ops.conv1x1, lambda y, k: y @ k, (3, 6, 5, 3), (3, 4)),
    "conv2d": (
        lambda m, k: ops.conv2d(m, k, stride=2, padding=1),
        lambda y, k: xla_conv(y, k, 2, 1),
        (3, 8, 6, 4),
        (3, 3, 4, 5),
    ),
    "dilated": (
        lambda m, k: ops.conv2d(m, k, padding=4, dilation=4),
        lambda y, k: xla_conv(y, k, 1, 4, 4),
        (2, 10, 11, 3),
        (3, 3, 3, 4),
    ),
    "depthwise": (ops.depthwise_conv3x3, xla_depthwise, (5, 7, 6, 3), (3, 3, 3)),
    "strided depthwise": (
        lambda m, k: ops.depthwise_conv3x3(m, k, 2),
        lambda y, k: xla_depthwise(y, k, 2),
        (5, 8, 6, 3),
        (3, 3, 3),
    ),
    "repeated depthwise": (
        lambda m, k: ops.depthwise_conv3x3(m, k, 2),
        lambda y, k: xla_depthwise(y, k, 2),
        (5, 8, 6, 3),
        (3, 3, 6),
    ),
    "conv1d": (lambda m, k: ops.conv1d(m, k, padding=0), xla_conv1d, (2, 9, 3), (3, 3, 4)),
    "padded conv1d": (
        lambda m, k: ops.conv1d(m, k, padding=1),
        lambda y, k: xla_conv1d(y, k, 1),
        (2, 9, 3),
        (3, 3, 4),
    ),
    "mean": (lambda m, k: ops.mean(m), lambda y, k: y.mean((1, 2)) + 0 * k, (3, 4, 6, 2), (2,)),
    "values": (lambda m, k: m, lambda y, k: y + 0 * k, (3, 4, 6, 2), (2,)),
    "max_pool": (
        lambda m, k: ops.max_pool(m),
        lambda y, k: xla_pool(y) + 0 * k[0],
        (2, 8, 6, 3),
        (1,),
    ),
    "max_pool_time": (
        lambda m, k: ops.max_pool_time(m),
        lambda y, k: jnp.maximum(y[:, :-1], y[:, 1:]) + 0 * k[0],
        (2, 8, 3),
        (1,),
    ),
}
PENDING = {
    "nothing": lambda x, *_: (Map(x), x),
    "constant": lambda x, mean, scale, bias: (Map(x, bias=bias), x + bias),
    "affine": lambda x, mean, scale, bias: (Map(x, mean, scale, bias), (x - mean) * scale + bias),
}


def check_reader(reader, pending, relu):
    operation, xla_operation, shape, kernel = READERS[reader]
    channels = shape[-1]

    def read(x, mean, scale, bias, kernel):
        m, _ = PENDING[pending](x, mean, scale, bias)
        return ops.values(operation(ops.relu(m) if relu else m, kernel))

    def explicit(x, mean, scale, bias, kernel):
        _, y = PENDING[pending](x, mean, scale, bias)
        return xla_operation(jax.nn.relu(y) if relu else y, kernel)

    arguments = normal(*shape), *(normal(channels) for _ in range(3)), normal(*kernel)
    assert_same_function(read, explicit, *arguments)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("pending", PENDING)
@pytest.mark.parametrize("reader", READERS)
def test_readers_apply_pending_operations(reader, pending, relu, kind):
    with ops.forms(kind):
        check_reader(reader, pending, relu)


CONVOLUTIONS = {"conv2d": ("conv2d", "dilated"), "max_pool": ("max_pool",)}
DEPTHWISE = ("depthwise", "strided depthwise", "repeated depthwise")


@pytest.mark.parametrize(
    ("operation", "form"),
    [
        (operation, form)
        for operation, alternatives in ops.ALTERNATIVES.items()
        for form in alternatives
        if operation in CONVOLUTIONS or operation.startswith("depthwise")
    ],
)
def test_readers_compute_the_same_in_every_form(operation, form):
    with ops.forms("gpu", **{operation: form}):
        for reader in CONVOLUTIONS.get(operation, DEPTHWISE):
            check_reader(reader, "affine", relu=True)


def test_every_kind_of_device_has_a_form_of_each_operation():
    for chosen in ops.FORMS.values():
        assert chosen.keys() == ops.ALTERNATIVES.keys()
        assert all(form in ops.ALTERNATIVES[operation] for operation, form in chosen.items())
    with (
        pytest.raises(ValueError, match="conv2d has no form origami"),
        ops.forms("gpu", conv2d="origami"),
    ):
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_kernel_gradient_of_bfloat16_maps_is_summed_in_float32(kind):
    x, dz, kernel = normal(5, 16, 16, 3), normal(5, 16, 16, 4), normal(3, 4)
    x, dz = x.astype(jnp.bfloat16), dz.astype(jnp.bfloat16)
    with ops.forms(kind):
        vjp_fn = jax.vjp(lambda kernel: ops.conv1x1(x, kernel).x, kernel)[1]
        gradient = vjp_fn(dz)[0]
    expected = np.einsum("bhwi,bhwo->io", *(np.asarray(a, np.float64) for a in (x, dz)))
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4)


def test_max_pool_gives_the_gradient_of_a_tie_to_the_first_value():
    gradient = jax.grad(lambda x: ops.max_pool(x).x.sum())(jnp.ones((1, 4, 4, 1)))
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(gradient[0, :, :, 0], expected)


def test_max_pool_time_gives_the_gradient_of_a_tie_to_the_first_step():
    gradient = jax.grad(lambda x: ops.max_pool_time(x).x.sum())(jnp.ones((1, 3, 1)))
    np.testing.assert_array_equal(gradient[0, :, 0], [1, 1, 0])


# ----------------------------------------------------------------------------- batch normalisation


def plain_batch_norm(x, gamma, beta):
    axes = tuple(range(x.ndim - 1))
    return (x - x.mean(axes)) / jnp.sqrt(x.var(axes) + ops.EPSILON) * gamma + beta


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("constant", [False, True])
def test_batch_norm_of_weighted_rows_equals_that_of_repeated_rows(constant, kind):
    x, gamma, beta, shift = normal(4, 5, 5, 3), normal(3), normal(3), normal(3)
    repeats = np.array([2, 0, 1, 3])
    rows = np.repeat(np.arange(4), repeats)
    weight = jnp.asarray(repeats, jnp.float32)

    def weighted(x, gamma, beta):
        m = Map(x, bias=shift if constant else None, rows=Rows(weight))
        return ops.values(ops.relu(ops.batch_norm(m, gamma, beta)[0]))[rows]

    def repeated(x, gamma, beta):
        return jax.nn.relu(plain_batch_norm(x[rows] + (shift if constant else 0), gamma, beta))

    with ops.forms(kind):
        assert_same_function(weighted, repeated, x, gamma, beta)
        m = Map(x, bias=shift if constant else None, rows=Rows(weight))
        _, moments = ops.batch_norm(m, gamma, beta)
    values = x[rows] + (shift if constant else 0)
    np.testing.assert_allclose(moments.mean, values.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moments.variance, values.var((0, 1, 2)), rtol=1e-4)
    assert moments.count == repeats.sum() * 25


def test_batch_norm_after_relu():
    x, gamma, beta = normal(4, 6, 3), normal(3), normal(3)

    def relu_norm(x, gamma, beta):
        m = ops.relu(Map(x, rows=Rows(jnp.ones(4))))
        return ops.values(ops.batch_norm(m, gamma, beta)[0])

    assert_same_function(
        relu_norm, lambda x, g, b: plain_batch_norm(jax.nn.relu(x), g, b), x, gamma, beta
    )


def test_batch_norm_statistics_are_summed_over_devices():
    x, gamma, beta, weight = normal(4, 6, 3), normal(3), normal(3), jnp.array([1.0, 2, 0, 1])

    def total(x, weight, axis_name):
        m, _ = ops.batch_norm(Map(x, rows=Rows(weight, axis_name)), gamma, beta)
        return (ops.values(ops.relu(m)) ** 2).sum()

    whole, gradient = jax.value_and_grad(total)(x, weight, None)
    halves, half_gradients = jax.vmap(
        jax.value_and_grad(lambda x, w: total(x, w, "d")), axis_name="d"
    )(x.reshape(2, 2, 6, 3), weight.reshape(2, 2))
    np.testing.assert_allclose(halves.sum(), whole, rtol=1e-5)
    np.testing.assert_allclose(half_gradients.reshape(x.shape), gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_dimmed_rows_equal_explicit_rows(kind):
    """Pools a map of images together with their dimmed copies and a black image."""
    images, gamma, beta = normal(3, 8, 6, 4) + 3, jnp.array([1.0, -2, 0.5, -0.1]), normal(4)
    brightness = jnp.array([[1.0, 1, 1], [0.3, 0, 0.9]])
    weight = jnp.asarray(RNG.integers(0, 4, 7), jnp.float32)

    def dimmed(x, gamma, beta):
        m = Map(x, rows=Rows(weight), dimmed=Dimmed(brightness))
        return ops.values(ops.max_pool(ops.relu(ops.batch_norm(m, gamma, beta)[0])))

    def explicit(x, gamma, beta):
        rows = [b[:, None, None, None] * x for b in brightness] + [0 * x[:1]]
        m = Map(jnp.concatenate(rows), rows=Rows(weight))
        return xla_pool(ops.values(ops.relu(ops.batch_norm(m, gamma, beta)[0])))

    with ops.forms(kind):
        assert_same_function(dimmed, explicit, images, gamma, beta)


def test_dimmed_rows_over_devices_equal_those_of_one_device():
    x, gamma, beta = normal(4, 8, 6, 3), normal(3), normal(3)
    brightness = jnp.array([[1.0, 1, 1, 1], [0.3, 0.1, 0.9, 0.5]])
    weight = jnp.array([[1.0, 2, 1, 0], [1, 0, 3, 1]])

    def loss(x, brightness, weight, black_weight, axis_name=None):
        rows = Rows(jnp.append(weight.reshape(-1), black_weight), axis_name)
        m, _ = ops.batch_norm(Map(x, rows=rows, dimmed=Dimmed(brightness)), gamma, beta)
        return (ops.max_pool(ops.relu(m)).x[:-1] ** 2).sum()

    whole, gradient = jax.value_and_grad(loss)(x, brightness, weight, 2.0)
    split = [a.reshape(2, 2, 2).swapaxes(0, 1) for a in (brightness, weight)]
    halves, half_gradients = jax.vmap(jax.value_and_grad(lambda *a: loss(*a, "d")), axis_name="d")(
        x.reshape(2, 2, 8, 6, 3), *split, jnp.array([2.0, 0])
    )
    np.testing.assert_allclose(halves.sum(), whole, rtol=1e-5)
    np.testing.assert_allclose(half_gradients.reshape(x.shape), gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 14, 10, 29), (2, 11, 7), (4, 5), (2, 7, 7, 1500)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_statistics_of_both_forms_agree(shape, dtype):
    m = Map(normal(*shape).astype(dtype), rows=Rows(jnp.ones(shape[0])))
    ones = jnp.ones(shape[-1])
    results = []
    for kind in KINDS:
        with ops.forms(kind):
            results.append(ops.batch_norm(m, ones, ones)[1])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------ channels and rows


def plain_shuffle(x):
    *space, c = x.shape
    return x.reshape(*space, 2, c // 2).swapaxes(-1, -2).reshape(*space, c)


@pytest.mark.parametrize("units", [1, 2, 5])
def test_shuffling_units_keep_the_order_of_channels(units):
    """A stage of units, each of which maps the second half of its channels."""
    kernels = [normal(8, 8) for _ in range(units)]
    last, mean, scale, bias = normal(16, 5), normal(8), normal(8), normal(8)

    def stage(a, b):
        first = Map(a, mean, scale, bias, relu=True)
        x = ops.shuffle(ops.concat(first, b))
        for kernel in kernels:
            shortcut, y = ops.split(x)
            x = ops.shuffle(ops.concat(shortcut, ops.relu(ops.conv1x1(y, kernel))))
        in_order = ops.in_order(x).x
        return jnp.concatenate([in_order, ops.values(ops.conv1x1(x, last))], axis=-1)

    def explicit(a, b):
        x = plain_shuffle(jnp.concatenate([jax.nn.relu((a - mean) * scale + bias), b], -1))
        for kernel in kernels:
            shortcut, y = jnp.split(x, 2, axis=-1)
            x = plain_shuffle(jnp.concatenate([shortcut, jax.nn.relu(y @ kernel)], -1))
        return jnp.concatenate([x, x @ last], axis=-1)

    assert_same_function(stage, explicit, normal(2, 3, 4, 8), normal(2, 3, 4, 8))


def test_join_quarters_inverts_quarters():
    m = Map(normal(2, 4, 6, 3))
    parts = ops.quarters(m)
    np.testing.assert_array_equal(parts[1].x, m.x[:, 2:, :3])
    np.testing.assert_array_equal(parts[2].x, m.x[:, :2, 3:])
    np.testing.assert_array_equal(ops.join_quarters(parts).x, m.x)


@pytest.mark.parametrize("length", [1, 3])
def test_as_clips_inverts_as_images(length):
    """With dimmed copies and a black clip, stored as one image."""
    clips, factor = normal(2, length, 4, 4, 3), jnp.array([0.5, 0.25])
    weight = jnp.array([2.0, 1, 1, 0, 3])
    dimmed = Dimmed(jnp.stack([jnp.ones(2), factor]))
    images = ops.as_images(Map(clips, rows=Rows(weight, "d"), dimmed=dimmed))
    assert images.shape == (2 * length, 4, 4, 3)
    features = normal(4 * length + 1, 7)
    restored = ops.as_clips(Map(features, rows=images.rows), length)
    assert restored.rows.axis_name == "d"
    np.testing.assert_allclose(restored.rows.weight, weight)
    np.testing.assert_array_equal(restored.x[:-1].reshape(-1, 7), features[:-1])
    np.testing.assert_array_equal(restored.x[-1], np.broadcast_to(features[-1], (length, 7)))


def test_arithmetic_on_maps_uses_their_values():
    a, b, vector = normal(2, 3, 4, 5), normal(2, 3, 4, 5), normal(2, 5)
    ones = jnp.ones(5)
    m = ops.relu(Map(a, ones, ones, ones))  # (a - 1) * 1 + 1
    np.testing.assert_allclose((m + Map(b)).x, jax.nn.relu(a) + b, rtol=1e-6)
    np.testing.assert_allclose(
        (Map(vector) * m).x, vector[:, None, None] * jax.nn.relu(a), rtol=1e-6
    )

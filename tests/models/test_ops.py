"""The fast forms equal XLA's own operations, derivatives included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from avjax.models import ops
from avjax.models.layers import Dense
from avjax.models.ops import dense, depthwise, pooling, sums

RNG = np.random.default_rng(0)


@pytest.fixture(params=["cpu", "other"])
def form(request, monkeypatch):
    """The form that CPUs get, and that of accelerators, which any device can compute."""

    def chosen(*arguments, **forms):
        return forms[request.param](*arguments)

    for module in (dense, depthwise, pooling, sums):
        monkeypatch.setattr(module, "by_platform", chosen)
    jax.clear_caches()  # of what was traced with the other form
    yield request.param
    jax.clear_caches()


def normal(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def assert_same_function(ours, theirs, *arguments):
    """Values and gradients of a random projection agree."""
    projection = normal(*jax.eval_shape(ours, *arguments).shape)
    for function in (ours, theirs):
        assert jax.eval_shape(function, *arguments).shape == projection.shape

    def loss(function):
        return lambda *a: (function(*a) * projection).sum()

    positions = tuple(range(len(arguments)))
    np.testing.assert_allclose(ours(*arguments), theirs(*arguments), rtol=1e-4, atol=1e-4)
    mine = jax.jit(jax.grad(loss(ours), positions))(*arguments)
    reference = jax.jit(jax.grad(loss(theirs), positions))(*arguments)
    for a, b in zip(mine, reference, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def xla_conv(x, kernel, stride, padding, dilation=1, groups=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "shape",  # a CPU takes all images together, then three of eight, then one after the other
    [(1, 8, 6, 3), (5, 8, 6, 3), (8, 32, 32, 10), (2, 64, 64, 9)],
)
def test_depthwise_conv(form, stride, shape):
    x, kernel = normal(*shape), normal(3, 3, shape[-1]) / shape[1]
    assert_same_function(
        lambda x, k: ops.depthwise_conv3x3(x, k, stride),
        lambda x, k: xla_conv(x, k[:, :, None], stride, 1, groups=shape[-1]),
        x,
        kernel,
    )


def test_depthwise_conv_with_several_outputs_an_input():
    x, kernel = normal(2, 8, 6, 3), normal(3, 3, 6)
    assert_same_function(
        lambda x, k: ops.depthwise_conv3x3(x, k, 2),
        lambda x, k: xla_conv(x, k[:, :, None], 2, 1, groups=3),
        x,
        kernel,
    )


@pytest.mark.parametrize("relu", [True, False])
def test_operations_recall_a_normalised_map(relu):
    """Derivatives are those of the composition, though the map itself is not kept."""
    scale, bias, weight = normal(3), normal(3), jnp.array([1.0, 2.0, 0.0])
    consumers = {
        "depthwise": (lambda y, k: ops.depthwise_conv3x3(y, k, 2), normal(3, 3, 6)),
        "matmul": (ops.channel_matmul, normal(3, 4)),
        "conv2d": (lambda y, k: ops.conv2d(y, k, padding=4, dilation=4), normal(3, 3, 3, 4)),
    }
    for consume, kernel in consumers.values():

        def run(x, scale, bias, kernel, remembered, consume=consume):
            y, _, source = ops.batch_norm_train(x, scale, bias, weight, relu, 1e-5, None)
            return consume(ops.Normalised(y, source, relu) if remembered else y, kernel)

        assert_same_function(
            lambda *a, run=run: run(*a, True),
            lambda *a, run=run: run(*a, False),
            normal(3, 12, 12, 3),
            scale,
            bias,
            kernel,
        )


def test_the_matrix_gradient_of_bfloat16_maps_is_summed_in_float32(form):
    x, dy, kernel = normal(5, 16, 16, 3), normal(5, 16, 16, 4), normal(3, 4)
    x, dy = x.astype(jnp.bfloat16), dy.astype(jnp.bfloat16)
    gradient = jax.vjp(lambda kernel: ops.channel_matmul(x, kernel), kernel)[1](dy)[0]
    exact = np.einsum("bhwi,bhwo->io", *(np.asarray(a, np.float64) for a in (x, dy)))
    np.testing.assert_allclose(gradient, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("blank", [False, True])
@pytest.mark.parametrize("dimmed", [False, True])
def test_pooled_batch_norm_is_that_of_all_rows(form, blank, dimmed):
    """The same as spelled out: rows, batch normalisation, ReLU, pooling."""
    images, scale, bias = normal(3, 8, 6, 4) + 3, jnp.array([1.0, -2, 0.5, -0.1]), normal(4)
    brightness = jnp.array([[1.0, 1, 1], [0.3, 0, 0.9]][: 1 + dimmed])
    weight = jnp.asarray(RNG.integers(0, 4, brightness.size + blank), jnp.float32)

    def pooled(x, scale, bias):
        return ops.pooled_batch_norm(x, scale, bias, brightness, weight, blank, 1e-5, None)

    def spelled_out(x, scale, bias):
        rows = [b[:, None, None, None] * x for b in brightness] + [0 * x[:1]] * blank
        y, moments, _ = ops.batch_norm_train(
            jnp.concatenate(rows), scale, bias, weight, True, 1e-5, None
        )
        return ops.max_pool3x3_stride2(y), moments

    assert_same_function(
        lambda *a: pooled(*a)[0], lambda *a: spelled_out(*a)[0], images, scale, bias
    )
    for ours, theirs in zip(
        *(f(images, scale, bias)[1] for f in (pooled, spelled_out)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_pooled_batch_norm_over_devices_is_that_of_one():
    x, scale, bias = normal(4, 8, 6, 3), normal(3), normal(3)
    brightness = jnp.array([[1.0, 1, 1, 1], [0.3, 0.1, 0.9, 0.5]])
    weight = jnp.array([[1.0, 2, 1, 0], [1, 0, 3, 1]])

    def loss(x, brightness, weight, blank_weight, axis_name=None):
        weight = jnp.append(weight.reshape(-1), blank_weight)
        y, _ = ops.pooled_batch_norm(x, scale, bias, brightness, weight, True, 1e-5, axis_name)
        return (y[:-1] ** 2).sum()

    whole, gradient = jax.value_and_grad(loss)(x, brightness, weight, 2.0)
    split = [a.reshape(2, 2, 2).swapaxes(0, 1) for a in (brightness, weight)]
    halves, half_gradients = jax.vmap(jax.value_and_grad(lambda *a: loss(*a, "d")), axis_name="d")(
        x.reshape(2, 2, 8, 6, 3), *split, jnp.array([2.0, 0])
    )
    np.testing.assert_allclose(halves.sum(), whole, rtol=1e-5)
    np.testing.assert_allclose(half_gradients.reshape(x.shape), gradient, rtol=1e-3, atol=1e-5)


def test_product_of_a_batch_norms_source_is_that_of_its_map():
    weight = jnp.array([1.0, 2.0, 0.0])

    def by_source(x, scale, bias, kernel):
        source, _ = ops.batch_norm_source(x, scale, bias, weight, 1e-5, None)
        value, shift = ops.affine_matmul(source, kernel)
        return value + shift

    def by_map(x, scale, bias, kernel):
        y, *_ = ops.batch_norm_train(x, scale, bias, weight, False, 1e-5, None)
        return ops.channel_matmul(y, kernel)

    arguments = normal(3, 6, 5, 3) + 1, normal(3), normal(3), normal(3, 4)
    assert_same_function(by_source, by_map, *arguments)


def test_a_dense_layer_maps_a_source_as_it_maps_its_map():
    source, order = ops.Source(normal(2, 5, 3), normal(3), normal(3)), np.uint32([2, 0, 1])
    layer = Dense(4)
    variables = layer.init(jax.random.key(0), source.x)
    value, shift = layer.apply(variables, source, order)
    expected = layer.apply(variables, ops.normalise(source, relu=False), order)
    np.testing.assert_allclose(value + shift, expected, rtol=1e-5, atol=1e-5)


def test_max_pool(form):
    def xla_pool(x):
        padding = ((0, 0), (1, 1), (1, 1), (0, 0))
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)

    assert_same_function(ops.max_pool3x3_stride2, xla_pool, normal(2, 8, 6, 3))


def test_max_pool_gives_a_tie_to_the_first_value_as_torch_does():
    gradient = jax.grad(lambda x: ops.max_pool3x3_stride2(x).sum())(jnp.ones((1, 4, 4, 1)))
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(gradient[0, :, :, 0], expected)


def test_max_pool_time_gives_a_tie_to_the_first_step():
    gradient = jax.grad(lambda x: ops.max_pool_time(x).sum())(jnp.ones((1, 3, 1)))
    np.testing.assert_array_equal(gradient[0, :, 0], [1, 1, 0])


@pytest.mark.parametrize(
    ("size", "stride", "padding", "dilation"), [(3, 2, 1, 1), (3, 1, 4, 4), (1, 1, 0, 1)]
)
def test_conv2d(form, size, stride, padding, dilation):
    x, kernel = normal(2, 10, 12, 3), normal(size, size, 3, 4)
    assert_same_function(
        lambda x, k: ops.conv2d(x, k, stride=stride, padding=padding, dilation=dilation),
        lambda x, k: xla_conv(x, k, stride, padding, dilation),
        x,
        kernel,
    )


@pytest.mark.parametrize("padding", [0, 1])
def test_conv1d(padding):
    def xla_conv1d(x, kernel):
        dimensions = ("NHC", "HIO", "NHC")
        return lax.conv_general_dilated(
            x, kernel, (1,), [(padding, padding)], dimension_numbers=dimensions
        )

    assert_same_function(
        lambda x, k: ops.conv1d(x, k, padding=padding), xla_conv1d, normal(2, 9, 3), normal(3, 3, 4)
    )


@pytest.mark.parametrize("shape", [(3, 14, 10, 29), (2, 11, 7), (4, 5), (2, 7, 7, 1500)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_sums_over_positions(form, shape, dtype):
    x, mean = normal(*shape).astype(dtype), normal(shape[-1])

    def squares(x, mean):
        return jnp.square(x.astype(jnp.float32) - mean)

    found = sums.sum_positions(squares, x, mean)
    expected = np.asarray(squares(x, mean), np.float64).reshape(shape[0], -1, shape[-1]).sum(1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def operations(platform, images):
    """Floating-point operations of a program for a platform; those of a loop count once."""

    def loss(x, dense, depthwise):
        y = ops.depthwise_conv3x3(ops.conv2d(x, dense, padding=1), depthwise)
        return ops.max_pool3x3_stride2(y).sum()

    shapes = ((images, 8, 8, 3), (3, 3, 3, 4), (3, 3, 4))
    structs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(*structs)
    return traced.lower(lowering_platforms=(platform,)).cost_analysis()["flops"]


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_accelerators_take_all_images_at_once(platform):
    one, two = (operations(platform, images) for images in (8, 16))
    assert (two > 1.95 * one) == (platform != "cpu")


def plain_batch_norm(x, scale, bias, relu):
    axes = tuple(range(x.ndim - 1))
    y = (x - x.mean(axes)) / jnp.sqrt(x.var(axes) + 1e-5) * scale + bias
    return jax.nn.relu(y) if relu else y


@pytest.mark.parametrize("relu", [False, True])
def test_batch_norm_of_weighted_rows_equals_that_of_repeated_rows(relu):
    x, scale, bias = normal(4, 5, 5, 3), normal(3), normal(3)
    repeats = np.array([2, 0, 1, 3])
    projection = normal(repeats.sum(), 5, 5, 3)
    rows = np.repeat(np.arange(4), repeats)

    def weighted(x, scale, bias):
        weight = jnp.asarray(repeats, jnp.float32)
        y = ops.batch_norm_train(x, scale, bias, weight, relu, 1e-5, None)[0]
        return (y[rows] * projection).sum()

    def repeated(x, scale, bias):
        return (plain_batch_norm(x[rows], scale, bias, relu) * projection).sum()

    ours = jax.value_and_grad(weighted, (0, 1, 2))(x, scale, bias)
    theirs = jax.value_and_grad(repeated, (0, 1, 2))(x, scale, bias)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_batch_norm_statistics_are_summed_over_devices():
    x, scale, bias, weight = normal(4, 6, 3), normal(3), normal(3), jnp.array([1.0, 2, 0, 1])

    def total(x, weight, axis_name):
        y, *_ = ops.batch_norm_train(x, scale, bias, weight, True, 1e-5, axis_name)
        return (y**2).sum()

    whole, gradient = jax.value_and_grad(total)(x, weight, None)
    halves, half_gradients = jax.vmap(
        jax.value_and_grad(lambda x, w: total(x, w, "d")), axis_name="d"
    )(x.reshape(2, 2, 6, 3), weight.reshape(2, 2))
    np.testing.assert_allclose(halves.sum(), whole, rtol=1e-5)
    np.testing.assert_allclose(half_gradients.reshape(x.shape), gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("features", [5, 16])
def test_pooled_conv(features):
    image, kernel, offset = normal(16, 8, 3), normal(3, 3, 3, features), normal(features)
    y = jnp.maximum(xla_conv(image[None], kernel, 2, 1) + offset, 0)
    found = ops.pooled_conv3x3(image, kernel, offset)
    np.testing.assert_allclose(found, ops.max_pool3x3_stride2(y)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("stride", "multiplier"), [(1, 1), (2, 3)])
def test_quartered_conv(stride, multiplier):
    x, outputs = normal(2, 8, 12, 3), 3 * multiplier
    kernel, offset = normal(3, 3, 2, 2, outputs), normal(2, 2, outputs)
    found = ops.quartered_conv3x3(x.reshape(2, 2, 4, 2, 6, 3), kernel, offset, stride)
    for row in range(2):
        for column in range(2):
            quarter = x[:, 4 * row : 4 * row + 4, 6 * column : 6 * column + 6]
            y = ops.depthwise_conv3x3(quarter, kernel[:, :, row, column], stride)
            y = jnp.maximum(y + offset[row, column], 0)
            np.testing.assert_allclose(found[:, row, :, column], y, rtol=1e-5, atol=1e-5)

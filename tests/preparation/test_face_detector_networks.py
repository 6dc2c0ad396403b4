"""MTCNN's networks and weights: shapes, PyTorch's pooling and flatten order, facenet's outputs."""

import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from avjax.errors import InputError
from avjax.preparation.face_detector import networks, weights

SIZES = {networks.PNet: 12, networks.RNet: 24, networks.ONet: 48}


@pytest.fixture(scope="module")
def variables():
    """The published weights."""
    if importlib.util.find_spec(weights.PACKAGE) is None:
        pytest.skip(f"MTCNN's weights are not installed: {weights.REMEDY}")
    return weights.load_mtcnn()


def image(height: int, width: int) -> np.ndarray:
    """Returns a deterministic image in 0..255."""
    y, x = np.mgrid[:height, :width]
    channels = [(x * 7 + y * 3) % 256, (x * x + y * 5) % 256, (x * y) % 256]
    return np.stack(channels, axis=-1)[None].astype(np.float32)


@pytest.mark.parametrize(
    ("network", "count"), [(networks.PNet, 6632), (networks.RNet, 100178), (networks.ONet, 389040)]
)
def test_parameter_counts(network, count):
    size = SIZES[network]
    shapes = jax.eval_shape(network().init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


@pytest.mark.parametrize(("height", "width"), [(12, 12), (31, 44), (30, 45)])
def test_pnet_has_a_cell_every_second_pixel(height, width):
    shapes = jax.eval_shape(
        lambda key, x: networks.PNet().init_with_output(key, x)[0],
        jax.random.key(0),
        jnp.zeros((2, height, width, 3)),
    )
    cells = (-(-(height - 2) // 2) - 4, -(-(width - 2) // 2) - 4)  # pooling rounds up
    assert [leaf.shape for leaf in shapes] == [(2, *cells), (2, *cells, 4)]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("length", [7, 8])
def test_max_pool_rounds_up_and_pads(size, length):
    x = np.random.default_rng(0).standard_normal((1, length, length + 1, 2)).astype(np.float32)
    pooled = np.asarray(networks.max_pool(x, size))
    assert pooled.shape[1:3] == tuple(-(-(n - size) // 2) + 1 for n in x.shape[1:3])
    for i in range(pooled.shape[1]):
        for j in range(pooled.shape[2]):
            window = x[0, 2 * i : 2 * i + size, 2 * j : 2 * j + size]
            np.testing.assert_array_equal(pooled[0, i, j], window.max((0, 1)))


@pytest.mark.parametrize("kernel_size", [2, 3])
@pytest.mark.parametrize("width", [9, 10, 11, 12])
def test_grouped_conv_equals_a_plain_convolution(kernel_size, width):
    x = jax.random.normal(jax.random.key(0), (2, 8, width, 3))
    conv = networks.GroupedConv(5, kernel_size, group=4)
    y, variables = conv.init_with_output(jax.random.key(1), x)
    kernel, dimensions = variables["params"]["kernel"], ("NHWC", "HWIO", "NHWC")
    expected = lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=dimensions, precision="highest"
    )
    np.testing.assert_allclose(y, expected, atol=2e-6)


def test_prelu_scales_negative_values():
    x = jnp.array([[-2.0, 3.0], [4.0, -8.0]])
    variables = {"params": {"slope": jnp.array([0.5, 0.25])}}
    np.testing.assert_array_equal(networks.PReLU().apply(variables, x), [[-1, 3], [4, -2]])


def test_flatten_is_column_major():
    x = np.arange(12).reshape(1, 2, 3, 2)  # rows, columns, channels
    expected = [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]
    np.testing.assert_array_equal(networks.flatten(jnp.asarray(x))[0], expected)


def test_pnet_equals_facenet(variables):
    """Expected values from facenet-pytorch 2.5.3 (torch 2.13, CPU, float32)."""
    face, box = networks.PNet().apply(variables.pnet, networks.normalise(image(31, 44)))
    expected = [0.00684856, 0.004084464, 0.000649141]
    np.testing.assert_allclose(face[0, [0, 3, -1], [0, 5, -1]], expected, atol=1e-6)
    np.testing.assert_allclose(face.mean(), 0.015992561, atol=1e-6)
    expected = [0.259890616, 0.099701539, -0.078428671, 0.061046112]
    np.testing.assert_allclose(box[0, -1, -1], expected, atol=2e-6)


def test_rnet_equals_facenet(variables):
    face, box = networks.RNet().apply(variables.rnet, networks.normalise(image(24, 24)))
    np.testing.assert_allclose(face[0], 0.036975797, atol=1e-6)
    expected = [-0.032035466, -0.009798825, -0.199194536, 0.168157369]
    np.testing.assert_allclose(box[0], expected, atol=2e-6)


def test_onet_equals_facenet(variables):
    face, box, landmarks = networks.ONet().apply(variables.onet, networks.normalise(image(48, 48)))
    np.testing.assert_allclose(face[0], 0.000551322, atol=1e-6)
    expected = [0.092131458, -0.101522192, -0.151872978, -0.002880743]
    np.testing.assert_allclose(box[0], expected, atol=2e-6)
    np.testing.assert_allclose(
        landmarks[0],
        [
            *(0.317291915, 0.616781652, 0.420768976, 0.348778248, 0.549978018),
            *(0.325181782, 0.273802608, 0.577163517, 0.787072062, 0.752972305),
        ],
        atol=2e-6,
    )


def test_loading_weights_does_not_import_torch(variables):
    assert variables.pnet["params"]["conv1"]["conv"]["kernel"].shape == (3, 3, 3, 10)
    assert weights.PACKAGE not in sys.modules


def test_missing_package_is_an_error_with_a_remedy(monkeypatch):
    monkeypatch.setattr(weights, "PACKAGE", "avjax_no_such_package")
    with pytest.raises(InputError, match="pip install --no-deps facenet-pytorch"):
        weights.load_mtcnn()


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"pnet\.pt does not exist"):
        weights.load_mtcnn(tmp_path)

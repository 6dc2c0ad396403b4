"""Every form of the operations in `avjax.models.ops`, on the network's own shapes.

Each is timed with its gradients where they depend on the form. Two plain ways that the network does
without stand beside them: batch normalisation by its automatic derivative, and channels shuffled in
memory.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from avjax.models import ops
from avjax.models.ops import Map, Rows

PLAIN = "plain"


class Case(NamedTuple):
    """A form to time.

    Attributes:
      operation: of `ops.ALTERNATIVES`, or one of those compared with `PLAIN`.
      form: its name.
      shape: of the map.
      function: of ``arguments``.
      arguments: arrays.
    """

    operation: str
    form: str
    shape: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def cases(operation: str, rows: int, size: int, dtype: str) -> Iterator[Case]:
    """Yields the forms of an operation.

    Args:
      operation: of `OPERATIONS`.
      rows: images.
      size: height and width of the network's images; maps have a fraction of it.
      dtype: of the maps.
    """
    for shape, function, arguments in OPERATIONS[operation](rows, size, dtype):
        text = "x".join(map(str, shape))
        for form in ops.ALTERNATIVES.get(operation, ("today", PLAIN)):
            yield Case(operation, form, text, _traced(operation, form, function), arguments)


def _traced(operation: str, form: str, function: Callable) -> Callable:
    """Compiles a function with one form of the operation."""
    if operation not in ops.ALTERNATIVES:
        return jax.jit(lambda *arguments: function(form == PLAIN, *arguments))

    def with_form(*arguments: Any) -> Any:
        with ops.forms("gpu", **{operation: form}):
            return function(*arguments)

    return jax.jit(with_form)


def _normal(shape: tuple[int, ...], dtype: str) -> Any:
    values = jax.random.normal(jax.random.key(len(shape)), shape, jnp.float32)
    return jax.block_until_ready(values.astype(dtype))


def _gradients(function: Callable) -> Callable:
    """A function's gradients of all arguments but the last, its result's cotangent."""

    def gradients(*arguments: Any) -> Any:
        *inputs, cotangent = arguments
        return jax.vjp(function, *inputs)[1](cotangent)

    return gradients


def _depthwise(part: str) -> Callable:
    def shapes(rows: int, size: int, dtype: str) -> Iterator[Any]:
        for side, channels, stride in ((size // 8, 58, 1), (size // 4, 58, 2)):
            shape = (rows, side, side, channels)
            x, kernel = _normal(shape, dtype), _normal((3, 3, channels), "float32")
            dz = _normal((rows, side // stride, side // stride, channels), dtype)

            def forward(x: Any, kernel: Any, stride: int = stride) -> Any:
                return ops.depthwise_conv3x3(x, kernel, stride).x

            functions = {
                "forward": (forward, (x, kernel)),
                "input": (lambda x, k, dz, f=forward: _gradients(f)(x, k, dz)[0], (x, kernel, dz)),
                "kernel": (lambda x, k, dz, f=forward: _gradients(f)(x, k, dz)[1], (x, kernel, dz)),
            }
            yield shape, *functions[part]

    return shapes


def _conv2d(rows: int, size: int, dtype: str) -> Iterator[Any]:
    stem = (rows // 2, size, size, 3), (3, 3, 3, 29), {"stride": 2, "padding": 1}
    gate = (rows, size // 8, size // 8, 7), (3, 3, 7, 7), {"padding": 4, "dilation": 4}
    for shape, kernel_shape, options in (gate, stem):
        x, kernel = _normal(shape, dtype), _normal(kernel_shape, "float32")
        weight = Rows(jnp.ones(shape[0]))

        def convolution(x: Any, kernel: Any, options: Any = options, weight: Any = weight) -> Any:
            return ops.conv2d(Map(x, rows=weight), kernel, **options).x

        dz = _normal(jax.eval_shape(convolution, x, kernel).shape, dtype)
        # The network's images need no gradient.
        keep = 1 if options.get("stride") else 0

        def step(x: Any, kernel: Any, dz: Any, f: Any = convolution, keep: int = keep) -> Any:
            return f(x, kernel), _gradients(f)(x, kernel, dz)[keep:]

        yield shape, step, (x, kernel, dz)


def _max_pool(rows: int, size: int, dtype: str) -> Iterator[Any]:
    shape = (rows // 2, size // 2, size // 2, 29)
    x, vector = _normal(shape, dtype), _normal((29,), "float32")
    dz = _normal((shape[0], size // 4, size // 4, 29), dtype)

    def step(x: Any, vector: Any, dz: Any) -> Any:
        def pool(x: Any, scale: Any) -> Any:
            return ops.max_pool(ops.relu(Map(x, scale, scale, scale))).x

        return pool(x, vector), _gradients(pool)(x, vector, dz)

    yield shape, step, (x, vector, dz)


def _statistics(rows: int, size: int, dtype: str) -> Iterator[Any]:
    for side, channels in ((size // 4, 58), (size // 8, 116)):
        shape = (rows, side, side, channels)
        x, ones = _normal(shape, dtype), jnp.ones(channels)

        def moments(x: Any, ones: Any, rows: int = rows) -> Any:
            return ops.batch_norm(Map(x, rows=Rows(jnp.ones(rows))), ones, ones)[1]

        yield shape, moments, (x, ones)


def _kernel_gradient(rows: int, size: int, dtype: str) -> Iterator[Any]:
    for side, inputs, outputs in ((size // 8, 58, 58), (size // 4, 29, 58)):
        shape = (rows, side, side, inputs)
        x, dz = _normal(shape, dtype), _normal((*shape[:3], outputs), dtype)
        kernel = _normal((inputs, outputs), "float32")

        def gradient(x: Any, kernel: Any, dz: Any) -> Any:
            return _gradients(lambda x, k: ops.conv1x1(x, k).x)(x, kernel, dz)[1]

        yield shape, gradient, (x, kernel, dz)


def _batch_norm(rows: int, size: int, dtype: str) -> Iterator[Any]:
    """A product, batch normalisation, ReLU and another product, with all gradients."""
    shape = (rows, size // 8, size // 8, 58)
    x, kernel, vector = _normal(shape, dtype), _normal((58, 58), dtype), jnp.ones(58)

    def step(plain: bool, x: Any, kernel: Any, gamma: Any, dz: Any) -> Any:
        def layers(x: Any, kernel: Any, gamma: Any) -> Any:
            if plain:
                y = (x @ kernel).astype(jnp.float32)
                mean, var = y.mean((0, 1, 2)), y.var((0, 1, 2))
                y = (y - mean) * jax.lax.rsqrt(var + ops.EPSILON) * gamma + gamma
                return jax.nn.relu(y).astype(x.dtype) @ kernel
            m = Map(x, rows=Rows(jnp.ones(rows)))
            m, _ = ops.batch_norm(ops.conv1x1(m, kernel), gamma, gamma)
            return ops.conv1x1(ops.relu(m), kernel).x

        return layers(x, kernel, gamma), _gradients(layers)(x, kernel, gamma, dz)

    yield shape, step, (x, kernel, vector, x)


def _shuffle(rows: int, size: int, dtype: str) -> Iterator[Any]:
    """Four units that map half of the channels by a product and shuffle, with all gradients."""
    shape = (rows, size // 16, size // 16, 116)
    a, b, dz = (_normal(shape, dtype) for _ in range(3))
    kernel, last = _normal((116, 116), dtype), _normal((232, 116), dtype)

    def step(plain: bool, a: Any, b: Any, kernel: Any, last: Any, dz: Any) -> Any:
        def units(a: Any, b: Any, kernel: Any, last: Any) -> Any:
            if plain:
                x = jnp.concatenate([a, b], -1)
                for _ in range(4):
                    kept, y = jnp.split(x, 2, -1)
                    x = jnp.stack([kept, y @ kernel], -1).reshape(x.shape)
                return x @ last
            x = ops.concat(a, b)
            for _ in range(4):
                kept, y = ops.split(x)
                x = ops.shuffle(ops.concat(kept, ops.conv1x1(y, kernel)))
            return ops.conv1x1(x, last).x

        return units(a, b, kernel, last), _gradients(units)(a, b, kernel, last, dz)

    yield shape, step, (a, b, kernel, last, dz)


OPERATIONS: dict[str, Callable[[int, int, str], Iterator[Any]]] = {
    "depthwise_kernel": _depthwise("kernel"),
    "depthwise": _depthwise("forward"),
    "depthwise_input": _depthwise("input"),
    "conv2d": _conv2d,
    "statistics": _statistics,
    "max_pool": _max_pool,
    "kernel_gradient": _kernel_gradient,
    "batch_norm": _batch_norm,
    "shuffle": _shuffle,
}
"""Operations by name; ``(rows, size, dtype)`` to shape, function and arguments of each case."""


def largest_difference(a: Any, b: Any) -> float:
    """Returns the largest deviation of two results, as a share of each array's largest value."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(_deviation(x, y)) for x, y in pairs)


@jax.jit
def _deviation(x: Any, y: Any) -> Any:
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    return jnp.abs(x - y).max() / jnp.maximum(jnp.abs(y).max(), 1e-30)

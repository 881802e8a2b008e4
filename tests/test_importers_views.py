"""Which reshapes are views, against NumPy, which copies where it must."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from perfmodel.importers.build import as_shape
from perfmodel.importers.views import contiguous, dense, reshaped
from perfmodel.layers.dims import Shape
from tests.brute_force import examples

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)


@st.composite
def factorings(draw: st.DrawFn, elements: int) -> tuple[int, ...]:
    """Sizes whose product is `elements`."""
    sizes = []
    while elements > 1:
        size = draw(st.sampled_from([d for d in range(2, elements + 1) if elements % d == 0]))
        sizes.append(size)
        elements //= size
    for _ in range(draw(st.integers(0, 2))):
        sizes.insert(draw(st.integers(0, len(sizes))), 1)
    return tuple(sizes) or (1,)


@examples(500)
@given(data=st.data())
def test_reshaped_is_a_view_where_numpys_is(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    order = data.draw(st.permutations(range(len(shape))))
    x = np.arange(math.prod(shape)).reshape(shape).transpose(order)
    target = data.draw(factorings(x.size))
    strides = tuple(step // x.itemsize for step in x.strides)
    expected = x.reshape(target)
    found = reshaped(x.shape, strides, target)
    assert (found is not None) == np.shares_memory(x, expected)
    if found is not None:  # the strides name the same elements
        base = np.arange(math.prod(shape))
        bytes_each = base.itemsize
        view = np.lib.stride_tricks.as_strided(
            base, target, [step * bytes_each if n > 1 else 0 for step, n in zip(found, target, strict=True)]
        )
        np.testing.assert_array_equal(view, expected)


@examples(100)
@given(shapes)
def test_contiguous_is_numpys_own_order(shape: tuple[int, ...]) -> None:
    x = np.empty(shape, dtype=np.int8)
    assume(x.size)
    assert contiguous(shape) == x.strides


def test_images_lie_channels_last() -> None:
    x = np.empty((2, 4, 5, 3), dtype=np.int8).transpose(0, 3, 1, 2)
    assert dense((2, 3, 4, 5), 1) == x.strides
    assert dense((2, 3, 4, 5), 3) == contiguous((2, 3, 4, 5))


@examples(100)
@given(shapes, st.integers(0, 4))
def test_a_tensor_of_any_rank_keeps_its_elements_as_an_image(shape: tuple[int, ...], axis: int) -> None:
    axis %= len(shape)
    image = as_shape(shape, axis)
    assert image.elements == math.prod(shape)
    assert shape[axis] == image.C


@pytest.mark.parametrize(
    ("sizes", "axis", "image"),
    [((), 0, (1, 1, 1, 1)), ((7,), 0, (1, 7, 1, 1)), ((2, 10), 1, (2, 10, 1, 1)), ((2, 4, 5, 3), 3, (2, 3, 4, 5))],
)
def test_shapes_by_hand(sizes: tuple[int, ...], axis: int, image: tuple[int, ...]) -> None:
    assert as_shape(sizes, axis) == Shape(*image)

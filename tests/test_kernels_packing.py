"""Packed weights, read back as the matrix instructions read them."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest

from perfmodel.validation.fused.catalog import FAMILIES, family_of
from perfmodel.validation.fused.convfirst.problem import ConvFirstProblem
from perfmodel.validation.fused.convfirst.stream import TAPS, TAPS_OF_PAIRS, pairs
from perfmodel.validation.fused.packing import bits, unbits
from perfmodel.validation.fused.problem import GpuError
from perfmodel.validation.fused.reference import convolve, deviation, tolerance
from tests.gpus import H200


def by_descriptor(data, start, K, N, lbo, sbo):
    """A K×N operand in shared memory, K-major, without swizzle: core matrices of 8 rows of N by 16 bytes."""
    k, n = np.meshgrid(np.arange(K), np.arange(N), indexing="ij")
    at = start + k // 8 * lbo + n // 8 * sbo + n % 8 * 16 + k % 8 * 2
    return data.view(np.uint16)[at // 2].view(np.float16).astype(np.float32)


def a_block(**sizes):
    problem = ConvFirstProblem(**{"N": 1, "H": 8, "W": 8, "expansion": 4, **sizes})
    return problem, family_of(problem).draw(problem, 3)


def packed(problem, p, only=None):
    family = family_of(problem)
    config = family.choose(problem, H200, only=only)
    return family.by_name[config.kernel].pack(problem, config, p)


def rounded(values, dtype="fp16"):
    return unbits(bits(values, dtype), dtype)


@pytest.mark.parametrize("e", [1, 4, 7])
def test_c64(e):
    problem, p = a_block(C=64, expansion=e)
    (blob,) = packed(problem, p)
    project_at, filters_at = 64 * 64 * e * 2, 2 * 64 * 64 * e * 2
    bias_at = filters_at + 4 * 9 * 512
    for chunk in range(e):
        columns = slice(64 * chunk, 64 * chunk + 64)
        expand = by_descriptor(blob, chunk * 8192, 64, 64, 1024, 128)
        project = by_descriptor(blob, project_at + chunk * 8192, 64, 64, 1024, 128)
        np.testing.assert_array_equal(expand, rounded(p.expand_w[:, columns] / 2))
        np.testing.assert_array_equal(project, p.project_w[columns])
    for pair in range(4):
        for kx, top in itertools.product(range(3), range(2)):  # a view's operand: two rows of the filter
            B = by_descriptor(blob, filters_at + ((pair * 3 + kx) * 6 + top) * 256, 16, 32, 768, 128)
            expected = np.zeros((16, 2, 16), np.float32)
            for row, half in itertools.product(range(2), range(2)):
                group = slice((2 * pair + half) * 8, (2 * pair + half) * 8 + 8)
                expected[half * 8 : half * 8 + 8, row, half * 8 : half * 8 + 8] = p.conv_w[group, top + row, kx].T
            np.testing.assert_array_equal(B, expected.reshape(16, 32))
    biases = blob[bias_at : bias_at + 128 * e].view(np.float16).reshape(e, 4, 8, 2)  # chunk, lane, block, pair
    np.testing.assert_array_equal(biases.transpose(0, 2, 1, 3).reshape(-1), (p.folded_bias() / 2).astype(np.float16))
    last = blob[bias_at + 128 * e :].view(np.float16)
    np.testing.assert_array_equal(last[:64].reshape(4, 8, 2).transpose(1, 0, 2).reshape(-1), p.project_b.astype(np.float16))
    assert len(blob) == bias_at + 128 * e + 256


@pytest.mark.parametrize(
    ("C", "e", "width", "W"), [(96, 1, 32, 7), (96, 2, 64, 8), (128, 2, 32, 8), (128, 2, 32, 7), (256, 3, 32, 8)]
)
def test_stream(C, e, width, W):
    problem, p = a_block(C=C, expansion=e, W=W, N=1 if width == 32 else 512)  # many pixels: three warpgroups, chunks of 64
    taps = TAPS_OF_PAIRS if pairs(W) else TAPS
    assert sorted(taps) == [(ky, kx) for ky in range(3) for kx in range(3)]
    stream, blob = packed(problem, p, "convfirst_stream")
    item = 2 * width * C
    for chunk in range(e * C // width):
        columns = slice(width * chunk, width * chunk + width)
        expand = by_descriptor(stream, chunk * 2 * item, C, width, 16 * width, 128)
        project = by_descriptor(stream, (chunk * 2 + 1) * item, width, C, 16 * C, 128)
        np.testing.assert_array_equal(expand, rounded(p.expand_w[:, columns] / 2))
        np.testing.assert_array_equal(project, p.project_w[columns])
    assert len(stream) == 2 * 2 * e * C * C
    for group in range(C // 8):
        for step in range(5):
            B = by_descriptor(blob, (group * 5 + step) * 256, 16, 8, 128, 128)
            for half, tap in enumerate((*taps, None)[2 * step : 2 * step + 2]):
                expected = np.zeros((8, 8)) if tap is None else p.conv_w[group * 8 : group * 8 + 8, tap[0], tap[1]].T
                np.testing.assert_array_equal(B[half * 8 : half * 8 + 8], expected)
    biases = blob[C // 8 * 1280 :].view(np.float16)
    lanes = biases[: e * C].reshape(-1, 4, width // 8, 2)  # chunk, lane, block, pair
    np.testing.assert_array_equal(lanes.transpose(0, 2, 1, 3).reshape(-1), (p.folded_bias() / 2).astype(np.float16))
    last = biases[e * C : (e + 1) * C].reshape(4, C // 8, 2)
    np.testing.assert_array_equal(last.transpose(1, 0, 2).reshape(-1), p.project_b.astype(np.float16))
    assert len(blob) == C // 8 * 1280 + e * C * 2 + 4 * C


@pytest.mark.parametrize("name", FAMILIES)
def test_wrong_shapes_are_refused(name):
    family = FAMILIES[name]
    problem = family.cases()[0]
    p = family.draw(problem, 0)
    p.check(problem)
    wrong = dataclasses.replace(p, project_b=p.project_b[1:])
    with pytest.raises(GpuError, match=rf"project_b has the shape \({problem.C - 1},\); {problem.name} needs"):
        wrong.check(problem)


# -- the references, against loops over single elements ----------------------------------------------------------------------


def at(x, row, column):
    """Zero outside of the image."""
    H, W, C = x.shape
    return x[row, column] if 0 <= row < H and 0 <= column < W else np.zeros(C)


def conv_at(x, w, b, row, column, stride=1):
    """One output pixel, tap by tap and channel by channel."""
    K, kernel, _, width = w.shape
    out = b.astype(np.float64).copy()
    per_group = K // (x.shape[-1] // width)
    for k in range(K):
        first = k // per_group * width
        for ky in range(kernel):
            for kx in range(kernel):
                pixel = at(x, row * stride + ky - kernel // 2, column * stride + kx - kernel // 2)
                out[k] += pixel[first : first + width] @ w[k, ky, kx].astype(np.float64)
    return out


def silu(v):
    return v / (1 + np.exp(-v))


def convfirst_at(problem, p, x, row, column):
    h = silu(conv_at(x, p.conv_w, p.conv_b, row, column) @ p.expand_w + p.expand_b)
    return h @ p.project_w + p.project_b + x[row, column]


def mbconv_at(problem, p, x, row, column):
    h = silu(x @ p.expand_w.astype(np.float64) + p.expand_b)
    rows, columns = problem.output_shape[1:3]
    g = np.array([[silu(conv_at(h, p.conv_w, p.conv_b, r, c, problem.stride)) for c in range(columns)] for r in range(rows)])
    gated = g[row, column]
    if problem.squeeze is not None:
        squeezed = silu(g.mean((0, 1)) @ p.reduce_w + p.reduce_b)
        gated = gated / (1 + np.exp(-(squeezed @ p.gate_w + p.gate_b)))
    y = gated @ p.project_w + p.project_b
    return y + x[row, column] if problem.has_identity else y


def fused_mbconv_at(problem, p, x, row, column):
    return silu(conv_at(x, p.conv_w, p.conv_b, row, column)) @ p.project_w + p.project_b + x[row, column]


def convnext_at(problem, p, x, row, column):
    a = conv_at(x, p.conv_w, p.conv_b, row, column)
    normed = (a - a.mean()) / np.sqrt(a.var() + 1e-6) * p.norm_w + p.norm_b
    v = normed @ p.expand_w.astype(np.float64) + p.expand_b
    h = np.array([0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in v])
    return p.scale * (h @ p.project_w + p.project_b) + x[row, column]


PLAIN = {"N": 1, "H": 4, "W": 5, "C": 16, "expansion": 2}
DEFINED = [
    ("convfirst", {}, convfirst_at),
    ("mbconv", {}, mbconv_at),
    ("mbconv", {"group_width": 1, "kernel": 5}, mbconv_at),
    ("mbconv", {"group_width": 1, "stride": 2, "squeeze": 5}, mbconv_at),
    ("mbconv", {"stride": 2, "out_channels": 24}, mbconv_at),
    ("fused_mbconv", {}, fused_mbconv_at),
    ("convnext", {}, convnext_at),
]


@pytest.mark.parametrize(("name", "form", "definition"), DEFINED)
def test_reference_is_the_definition(name, form, definition):
    family = FAMILIES[name]
    problem = family.problem(**PLAIN, **form)
    p = family.draw(problem, 1)
    x = np.random.default_rng(0).standard_normal(problem.input_shape).astype(np.float32)
    found = family.reference(np, x, p, problem)
    assert found.shape == problem.output_shape
    assert found.dtype == np.float64
    rows, columns = problem.output_shape[1:3]
    for row, column in ((0, 0), (rows // 2, columns // 2), (rows - 1, columns - 1)):
        expected = definition(problem, p, x[0].astype(np.float64), row, column)
        np.testing.assert_allclose(found[0, row, column], expected, rtol=1e-5, atol=1e-5)


def test_convnext_folds():
    """Norm's scale and shift into the expansion, the layer scale into the projection: the same function."""
    family = FAMILIES["convnext"]
    problem = family.problem(**PLAIN)
    p = family.draw(problem, 2)
    (we, be), (wp, bp) = p.folded_expansion(), p.folded_projection()
    ones, zeros = np.ones_like(p.norm_w), np.zeros_like(p.norm_b)
    folded = dataclasses.replace(p, norm_w=ones, norm_b=zeros, scale=ones, expand_w=we, expand_b=be, project_w=wp, project_b=bp)
    x = np.random.default_rng(0).standard_normal(problem.input_shape).astype(np.float32)
    np.testing.assert_allclose(
        family.reference(np, x, folded, problem), family.reference(np, x, p, problem), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(("kernel", "width", "stride"), [(3, 8, 1), (3, 8, 2), (3, 1, 2), (5, 1, 1), (7, 1, 1), (3, 16, 1)])
def test_convolution_is_linear_and_shifts(kernel, width, stride):
    """One pixel set: the filter appears around it, mirrored."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((16, kernel, kernel, width))
    x = np.zeros((1, 12, 12, 16))
    x[0, 6, 6] = rng.standard_normal(16)
    found = convolve(np, x, w, stride)
    per_group = 16 // (16 // width)
    for k in range(16):
        first = k // per_group * width
        for row in range(-(-12 // stride)):
            for column in range(-(-12 // stride)):
                ky, kx = 6 - row * stride + kernel // 2, 6 - column * stride + kernel // 2
                inside = 0 <= ky < kernel and 0 <= kx < kernel
                expected = w[k, ky, kx] @ x[0, 6, 6, first : first + width] if inside else 0.0
                assert found[0, row, column, k] == pytest.approx(expected)


def allowed(problem):
    family = family_of(problem)
    return tolerance(problem.dtype, family.roundings(problem), family.depth(problem))


@pytest.mark.parametrize("name", FAMILIES)
def test_deviation_fails_on_what_was_not_written(name):
    family = FAMILIES[name]
    problem = family.problem(**PLAIN)
    p = family.draw(problem, 3)
    x = np.random.default_rng(0).standard_normal(problem.input_shape).astype(np.float32)
    expected = family.reference(np, x, p, problem)
    limit = allowed(problem)
    assert deviation(np, expected.astype(np.float16), expected, x, limit).passed
    assert deviation(np, expected * (1 + 2 * limit), expected, x, limit).passed is False
    spoiled = expected.astype(np.float16)
    spoiled[0, 3, 3, 3] = np.nan
    assert not deviation(np, spoiled, expected, x, limit).passed


@pytest.mark.parametrize("name", FAMILIES)
def test_tolerance_sees_a_missing_bias(name):
    """Small enough that a kernel which forgets one vector of its parameters does not pass."""
    family = FAMILIES[name]
    problem = family.problem(**PLAIN)
    p = family.draw(problem, 4)
    x = np.random.default_rng(0).standard_normal(problem.input_shape).astype(np.float32)
    expected = family.reference(np, x, p, problem)
    vectors = [field for field, shape in family.parameters.shapes(problem).items() if len(shape) == 1]
    for field in vectors:
        forgotten = dataclasses.replace(p, **{field: np.zeros_like(getattr(p, field))})
        wrong = family.reference(np, x, forgotten, problem)
        assert not deviation(np, wrong, expected, x, allowed(problem)).passed, field


def test_bf16_rounds_to_nearest_even():
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1.0, 0.0, 1e-3], np.float32)
    np.testing.assert_array_equal(unbits(bits(values, "bf16"), "bf16")[:4], [1.0, 1 + 2**-6, -1.0, 0.0])

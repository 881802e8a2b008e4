"""Packed weights, read back as the matrix instructions read them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from perfmodel.validation.block_reference import deviation, reference, tolerance
from perfmodel.validation.configuration import choose_config
from perfmodel.validation.packing import STREAM_TAPS, bits, draw, pack, unbits
from perfmodel.validation.problem import DeviceLimits, GpuError, Problem

HOPPER = DeviceLimits(
    name="Hopper",
    compute_capability=(9, 0),
    multiprocessors=132,
    shared_bytes_per_block=232448,
    shared_bytes_per_multiprocessor=233472,
    l2_bytes=62914560,
)


def by_descriptor(data, start, K, N, lbo, sbo):
    """A K×N operand in shared memory, K-major, without swizzle: core matrices of 8 rows of N by 16 bytes."""
    k, n = np.meshgrid(np.arange(K), np.arange(N), indexing="ij")
    at = start + k // 8 * lbo + n // 8 * sbo + n % 8 * 16 + k % 8 * 2
    return data.view(np.uint16)[at // 2].view(np.float16).astype(np.float32)


def by_lanes(words, k16, n8, dtype):
    """Rows of B from the registers of a warp: lane l holds rows 2(l mod 4), +1, +8, +9 of column l div 4."""
    found = np.zeros((k16 * 16, n8 * 8), np.float32)
    values = unbits(words.view(np.uint16).reshape(k16, n8, 32, 4), dtype)
    for lane in range(32):
        for index, row in enumerate((0, 1, 8, 9)):
            found[2 * (lane % 4) + row :: 16, lane // 4 :: 8] = values[:, :, lane, index]
    return found


def a_block(**sizes):
    problem = Problem(**{"N": 1, "H": 8, "W": 8, "expansion": 4, **sizes})
    return problem, draw(problem, seed=3)


def rounded(values, dtype="fp16"):
    return unbits(bits(values, dtype), dtype)


@pytest.mark.parametrize("e", [1, 4, 7])
def test_c64(e):
    problem, p = a_block(C=64, expansion=e)
    config = choose_config(problem, HOPPER)
    (blob,) = pack(problem, config, p)
    project_at, filters_at = 64 * 64 * e * 2, 2 * 64 * 64 * e * 2
    bias_at = filters_at + 4 * 9 * 512
    for chunk in range(e):
        columns = slice(64 * chunk, 64 * chunk + 64)
        expand = by_descriptor(blob, chunk * 8192, 64, 64, 1024, 128)
        project = by_descriptor(blob, project_at + chunk * 8192, 64, 64, 1024, 128)
        np.testing.assert_array_equal(expand, rounded(p.expand_w[:, columns] / 2))
        np.testing.assert_array_equal(project, p.project_w[columns])
    for pair in range(4):
        for tap in range(9):
            B = by_descriptor(blob, filters_at + (pair * 9 + tap) * 512, 16, 16, 128, 256)
            expected = np.zeros((16, 16), np.float32)
            for half in range(2):
                group = slice((2 * pair + half) * 8, (2 * pair + half) * 8 + 8)
                expected[half * 8 : half * 8 + 8, half * 8 : half * 8 + 8] = p.conv_w[group, tap // 3, tap % 3].T
            np.testing.assert_array_equal(B, expected)
    biases = blob[bias_at : bias_at + 128 * e].view(np.float16).reshape(e, 4, 8, 2)  # chunk, lane, block, pair
    np.testing.assert_array_equal(biases.transpose(0, 2, 1, 3).reshape(-1), (p.folded_bias() / 2).astype(np.float16))
    last = blob[bias_at + 128 * e :].view(np.float16)
    np.testing.assert_array_equal(last[:64].reshape(4, 8, 2).transpose(1, 0, 2).reshape(-1), p.project_b.astype(np.float16))
    assert len(blob) == bias_at + 128 * e + 256


def test_stream():
    problem, p = a_block(C=128, expansion=2)
    config = choose_config(problem, HOPPER)
    stream, blob = pack(problem, config, p)
    for chunk in range(8):
        columns = slice(32 * chunk, 32 * chunk + 32)
        expand = by_descriptor(stream, chunk * 16384, 128, 32, 512, 128)
        project = by_descriptor(stream, chunk * 16384 + 8192, 32, 128, 2048, 128)
        np.testing.assert_array_equal(expand, rounded(p.expand_w[:, columns] / 2))
        np.testing.assert_array_equal(project, p.project_w[columns])
    for group in range(16):
        for step in range(5):
            B = by_descriptor(blob, (group * 5 + step) * 256, 16, 8, 128, 128)
            for half, tap in enumerate((*STREAM_TAPS, None)[2 * step : 2 * step + 2]):
                expected = np.zeros((8, 8)) if tap is None else p.conv_w[group * 8 : group * 8 + 8, tap[0], tap[1]].T
                np.testing.assert_array_equal(B[half * 8 : half * 8 + 8], expected)
    assert len(blob) == 16 * 1280 + 2 * 128 * 2 + 4 * 128


@pytest.mark.parametrize(("C", "e", "dtype"), [(96, 4, "fp16"), (40, 3, "bf16"), (8, 1, "fp16"), (264, 1, "bf16")])
def test_generic(C, e, dtype):
    problem, p = a_block(C=C, expansion=e, dtype=dtype)
    config = choose_config(problem, HOPPER, only="convfirst_generic")
    conv, expand, project, expand_b, project_b = pack(problem, config, p)
    k16, chunks = -(-C // 16), -(-e * C // 64)
    for group in range(C // 8):
        words = conv[group * 1152 : group * 1152 + 1152]
        taps = p.conv_w[group * 8 : group * 8 + 8].reshape(8, 9, 8).transpose(1, 2, 0)  # tap, input, output
        np.testing.assert_array_equal(by_lanes(words[:1024], 4, 1, dtype).reshape(8, 8, 8), taps[:8])
        ninth = unbits(words[1024:].view(np.uint16).reshape(32, 2), dtype)
        for lane in range(32):
            np.testing.assert_array_equal(ninth[lane], taps[8, 2 * (lane % 4) : 2 * (lane % 4) + 2, lane // 4])
    wide = np.concatenate([by_lanes(part, k16, 8, dtype) for part in np.split(expand, chunks)], 1)
    np.testing.assert_array_equal(wide[:C, : e * C], p.expand_w)
    assert not wide[C:].any()
    assert not wide[:, e * C :].any()
    back = by_lanes(project, chunks * 4, len(project) // (chunks * 4 * 256), dtype)
    np.testing.assert_array_equal(back[: e * C, :C], p.project_w)
    assert not back[e * C :].any()
    assert not back[:, C:].any()
    np.testing.assert_array_equal(expand_b.view(np.float32)[: e * C], p.folded_bias())
    np.testing.assert_array_equal(project_b.view(np.float32), p.project_b)


def test_wrong_shapes_are_refused():
    problem, p = a_block(C=64)
    wrong = dataclasses.replace(p, expand_b=p.expand_b[1:])
    with pytest.raises(GpuError, match=r"expand_b has the shape \(255,\)"):
        pack(problem, choose_config(problem, HOPPER), wrong)


def test_reference_is_the_definition():
    problem, p = a_block(C=16, H=4, W=5, expansion=2)
    x = np.random.default_rng(0).standard_normal((1, 4, 5, 16)).astype(np.float32)
    found = reference(np, x, p, problem)
    for row, column in ((0, 0), (2, 3), (3, 4)):
        a = p.conv_b.astype(np.float64)
        for c in range(16):
            for ky in range(3):
                for kx in range(3):
                    y, z = row + ky - 1, column + kx - 1
                    if 0 <= y < 4 and 0 <= z < 5:
                        a[c] += x[0, y, z, c // 8 * 8 : c // 8 * 8 + 8] @ p.conv_w[c, ky, kx]
        h = a @ p.expand_w + p.expand_b
        expected = (h / (1 + np.exp(-h))) @ p.project_w + p.project_b + x[0, row, column]
        np.testing.assert_allclose(found[0, row, column], expected, rtol=1e-5, atol=1e-5)


def test_deviation_fails_on_what_was_not_written():
    problem, p = a_block(C=16, expansion=2)
    x = np.random.default_rng(0).standard_normal((1, 8, 8, 16)).astype(np.float32)
    expected = reference(np, x, p, problem)
    assert deviation(np, expected.astype(np.float16), expected, x, problem).passed
    assert deviation(np, expected * (1 + 2 * tolerance(problem)), expected, x, problem).passed is False
    spoiled = expected.astype(np.float16)
    spoiled[0, 3, 3, 3] = np.nan
    assert not deviation(np, spoiled, expected, x, problem).passed


def test_bf16_rounds_to_nearest_even():
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1.0, 0.0, 1e-3], np.float32)
    np.testing.assert_array_equal(unbits(bits(values, "bf16"), "bf16")[:4], [1.0, 1 + 2**-6, -1.0, 0.0])

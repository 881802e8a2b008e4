"""mbconv_pairs and mbconv_tiles: what they serve, how rows are shared out, and packed weights read back as the matrix instructions read them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.validation.fused.configuration import Config
from perfmodel.validation.fused.mbconv import octets, pairs, rows
from perfmodel.validation.fused.mbconv.problem import MBConvProblem
from perfmodel.validation.fused.mbconv.reference import draw
from perfmodel.validation.fused.packing import bits, unbits
from perfmodel.validation.fused.problem import DeviceLimits
from tests.test_kernels_mbconv_rows import by_descriptor



def hopper(multiprocessors=132):
    return DeviceLimits(
        name="Hopper",
        compute_capability=(9, 0),
        multiprocessors=multiprocessors,
        shared_bytes_per_block=232448,
        shared_bytes_per_multiprocessor=233472,
        l2_bytes=62914560,
    )


def half(values):
    return unbits(bits(values, "fp16"), "fp16")


def problem_of(**sizes):
    return MBConvProblem(**{"N": 128, "H": 14, "W": 14, "C": 64, "expansion": 4, **sizes})


@pytest.mark.parametrize("C", sorted(pairs.LAYOUTS))
def test_stream_of_pairs(C):
    problem = problem_of(C=C)
    config = pairs.configure(problem, hopper())
    p = draw(problem, 5)
    stream, blob = pairs.KERNEL.pack(problem, config, p)
    chunk, order = pairs.CHUNK, rows.lane_order(C)
    read_order = np.arange(C) if config.defines["X_SHARED"] else order
    expand, bias = C * chunk * 2, chunk * 16
    item = 2 * expand + pairs.FILTER_BYTES
    assert len(stream) == problem.hidden // chunk * item
    for j in range(problem.hidden // chunk):
        at, columns = j * item, slice(j * chunk, (j + 1) * chunk)
        B = by_descriptor(stream, at, C, chunk, chunk // 8 * 128, 128)
        np.testing.assert_array_equal(B, half(p.expand_w[read_order][:, columns] / 2))
        # the bias is one more row, which multiplies the A operand's column of ones; the columns beyond meet zeros
        B = by_descriptor(stream, at + expand, 8, chunk, 0, 128)
        np.testing.assert_array_equal(B[0], half(p.expand_b[columns] / 2))
        assert not B[1:].any()
        B = by_descriptor(stream, at + expand + pairs.FILTER_BYTES, chunk, C, C // 8 * 128, 128)
        np.testing.assert_array_equal(B, p.project_w[columns][:, order])
        for group in range(chunk // 8):
            w = half(p.conv_w[columns.start + 8 * group : columns.start + 8 * group + 8] / 2)  # n, ky, kx, k
            start = at + expand + bias + group * 1536
            four = np.concatenate([by_descriptor(stream, start + 768 * i, 16, 48, 384, 128) for i in range(2)])
            for row in range(4):  # of h, from the one above the first output row on
                for out in range(2):
                    for kx in range(3):
                        n = slice(24 * (1 - out) + 8 * kx, 24 * (1 - out) + 8 * kx + 8)
                        found, ky = four[8 * row : 8 * row + 8, n], row - out
                        expected = w[:, ky, kx].T if 0 <= ky < 3 else np.zeros((8, 8))
                        np.testing.assert_array_equal(found, expected)
    biases = blob.view(np.float16).astype(np.float32)
    lanes = biases[: problem.hidden].reshape(-1, 4, chunk // 8, 2)  # chunk, lane, block, pair
    np.testing.assert_array_equal(lanes.transpose(0, 2, 1, 3).reshape(-1), half(p.conv_b / 2))
    np.testing.assert_array_equal(biases[problem.hidden :], half(p.project_b))


def test_stream_of_tiles():
    problem = problem_of(C=256)
    config = octets.configure(problem, hopper())
    p = draw(problem, 5)
    stream, blob = octets.KERNEL.pack(problem, config, p)
    C, chunk, order = 256, octets.CHUNK, rows.lane_order(256)
    expand = C * chunk * 2
    item = 2 * expand + octets.FILTER_BYTES
    assert len(stream) == problem.hidden // chunk * item
    for j in range(problem.hidden // chunk):
        at, columns = j * item, slice(j * chunk, (j + 1) * chunk)
        for part in range(2):  # the halves that are loaded apart
            k = slice(part * C // 2, (part + 1) * C // 2)
            B = by_descriptor(stream, at + part * expand // 2, C // 2, chunk, chunk // 8 * 128, 128)
            np.testing.assert_array_equal(B, half(p.expand_w[k, columns] / 2))
            k = slice(columns.start + part * chunk // 2, columns.start + (part + 1) * chunk // 2)
            B = by_descriptor(stream, at + expand + octets.FILTER_BYTES + part * expand // 2, chunk // 2, C, C // 8 * 128, 128)
            np.testing.assert_array_equal(B, p.project_w[k][:, order])
        B = by_descriptor(stream, at + expand, 8, chunk, 0, 128)
        np.testing.assert_array_equal(B[0], half(p.expand_b[columns] / 2))
        assert not B[1:].any()
    assert len(blob) == 2 * (problem.hidden + C)


def pairs_of(problem, config: Config):
    """As the source walks: for each warpgroup the (strip, pair) whose rows of h it computes, and whose output rows it writes."""
    high, length = -(-problem.H // 2), config.tile_rows // 2
    total = pairs.pairs(problem)
    (launch,) = pairs.KERNEL.launches(problem, config, hopper())
    for group in range(launch.grid[0] * pairs.WARPGROUPS):
        begin, end = group * length, min(group * length + length, total)
        slots = [begin - 1 + 4 * step + warp for step in range((length + 4) // 4) for warp in range(4)]
        yield [divmod(u, high) for u in slots if u < end], [divmod(u, high) for u in slots if begin <= u < end]


@settings(max_examples=60, deadline=None)
@given(
    N=st.integers(1, 9),
    H=st.integers(1, 40),
    W=st.integers(1, 40),
    C=st.sampled_from(sorted(pairs.LAYOUTS)),
    sms=st.integers(1, 132),
)
def test_every_pair_is_written_once_after_the_rows_that_it_needs(N, H, W, C, sms):
    problem = problem_of(N=N, H=H, W=W, C=C)
    made = pairs.arrange(problem, hopper(sms), pairs.LAYOUTS[C][0])
    strips, high = N * -(-W // rows.STRIP), -(-H // 2)
    written = []
    for computed, out in pairs_of(problem, made.config):
        have = set()
        for strip, p in computed:
            here = {(strip, 2 * p + 1), (strip, 2 * p + 2) if p + 1 < high else (strip + 1, 0)}
            have |= here
            if (strip, p) in out:
                needed = {(strip, row) for row in range(2 * p - 1, 2 * p + 3) if 0 <= row < H}
                assert needed <= have | {(strip, row) for row in range(H, H + 2)}
        written += out
    assert sorted(written) == [(strip, p) for strip in range(strips) for p in range(high)]


@pytest.mark.parametrize(("C", "e"), [(C, e) for C in (64, 96, 128, 256) for e in range(1, 9)])
def test_fits_or_says_why(C, e):
    module = octets if C == 256 else pairs
    config = module.configure(problem_of(C=C, expansion=e), hopper())
    if isinstance(config, str):
        assert any(character.isdigit() for character in config)
    else:
        assert config.shared_bytes <= hopper().shared_bytes_per_block
    if e == 4:
        assert isinstance(config, Config)


@pytest.mark.parametrize("module", [pairs, octets])
@pytest.mark.parametrize(
    ("form", "why"),
    [
        ({"dtype": "bf16"}, "fp16, not bf16"),
        ({"group_width": 1}, "not 3×3 in groups of 1"),
        ({"stride": 2}, "with stride 2"),
        ({"squeeze": 16}, "no squeeze-and-excitation"),
        ({"out_channels": 128}, "as many channels"),
        ({"C": 72}, "not 72"),
    ],
)
def test_refuses(module, form, why):
    config = module.configure(problem_of(**form), hopper())
    assert isinstance(config, str)
    assert why in config

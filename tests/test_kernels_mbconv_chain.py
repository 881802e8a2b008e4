"""mbconv_chain: what it serves, how its rows are shared out, and its packed weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.validation.fused.configuration import Config
from perfmodel.validation.fused.mbconv import chain, rows
from perfmodel.validation.fused.mbconv.family import FAMILY
from perfmodel.validation.fused.mbconv.problem import MBConvProblem
from tests.gpus import H200
from tests.test_kernels_mbconv_rows import check_stream, check_walks


def configured(**sizes):
    problem = MBConvProblem(**{"N": 128, "H": 28, "W": 28, "C": 128, "expansion": 4, **sizes})
    return problem, chain.configure(problem, H200)


@pytest.mark.parametrize("C", chain.WARPGROUPS)
def test_stream(C):
    problem, config = configured(C=C)
    check_stream(chain.KERNEL, problem, config, chain.CHUNK, (0, 1, 2))


def walks_of(problem, config: Config):
    """As the source walks, in the sequence of all strips: the rows of h and of y of each block."""
    total, H, height = rows.sequence(problem), problem.H, 4 * config.defines["WARPGROUPS"]
    for first in range(0, total, config.tile_rows):
        last = min(first + config.tile_rows, total)
        above = int(first % H != 0)
        # the last row of a strip, behind whole steps, has no step of its own
        tail = last % H == 0 and (last - first + above) % height == 0
        steps = (last - first + above + (not tail) + height - 1) // height
        start = first - above
        h = [s for s in range(start, start + height * steps) if s < total]
        yield h, [s - 1 for s in range(start, start + height * steps + tail) if first < s <= last]


@settings(max_examples=60, deadline=None)
@given(
    N=st.integers(1, 9),
    H=st.integers(1, 40),
    W=st.integers(1, 40),
    C=st.sampled_from(sorted(chain.WARPGROUPS)),
    sms=st.integers(1, 132),
)
def test_every_row_is_written_once_where_its_neighbours_are(N, H, W, C, sms):
    problem = MBConvProblem(N=N, H=H, W=W, C=C, expansion=4)
    device = replace(H200, multiprocessors=sms)
    config = chain.offer(problem, device, chain.shared_bytes(C, problem.hidden)).config
    (launch,) = chain.KERNEL.launches(problem, config, device)
    assert launch.grid[0] <= sms
    check_walks(problem, walks_of(problem, config))


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ({"dtype": "bf16"}, "fp16, not bf16"),
        ({"stride": 2}, "with stride 2"),
        ({"C": 64}, "96 or 128 channels, not 64"),
        ({"expansion": 1}, "not 4"),
        ({"C": 96, "expansion": 2}, "not 6"),
        ({"C": 96, "expansion": 3}, "not 9"),
        ({"expansion": 5}, "8 to 16, not 20"),
        ({"N": 16}, "mbconv_rows at"),
    ],
)
def test_refuses(form, why):
    _, config = configured(**form)
    assert isinstance(config, str)
    assert why in config


def test_refuses_what_does_not_fit():
    problem, config = configured()
    assert isinstance(config, Config)
    small = replace(H200, shared_bytes_per_block=config.shared_bytes - 1)
    assert (
        chain.configure(problem, small)
        == f"its weights and rows need {config.shared_bytes} of {config.shared_bytes - 1} B of shared memory"
    )


@pytest.mark.parametrize(
    ("C", "H", "N", "name"),
    [(96, 56, 1, rows.NAME), (96, 56, 128, chain.NAME), (128, 28, 16, rows.NAME), (128, 28, 128, chain.NAME)],
)
def test_serves_large_batches(C, H, N, name):
    assert FAMILY.choose(MBConvProblem(N=N, H=H, W=H, C=C, expansion=4), H200).kernel == name

"""convnext_few.cu: for few pixels, the blocks of a cluster share a patch: its convolution by channels, its products by hidden channels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from perfmodel.validation.fused.choice import WAVEFRONT_BYTES, Offer, best, estimated_clocks, exchange_bytes
from perfmodel.validation.fused.configuration import Config, Launch
from perfmodel.validation.fused.convnext import planes, wide
from perfmodel.validation.fused.convnext.patch import HALO_BYTES, halo_box, moved_bytes
from perfmodel.validation.fused.convnext.planes import operands
from perfmodel.validation.fused.convnext.problem import KERNEL as WINDOW
from perfmodel.validation.fused.convnext.problem import ConvNeXtProblem
from perfmodel.validation.fused.family import Kernel
from perfmodel.validation.fused.packing import up
from perfmodel.validation.fused.problem import ELEMENT_BYTES, DeviceLimits, hopper_only
from perfmodel.validation.fused.tiles import PATCH, filled_patches, patches_of, resident_blocks

NAME: Final = "convnext_few"
CHANNELS: Final = (128, 256)
CLUSTERS: Final = (2, 4, 8)
"""Blocks that share a patch."""
WARPGROUPS: Final = 2
PIXELS: Final = PATCH * PATCH
LARGEST_RING: Final = 16


def configure(problem: ConvNeXtProblem, device: DeviceLimits) -> Config | str:
    """Blocks of a cluster by `choice.best`, where that beats the kernel for many pixels."""
    if why := hopper_only(problem, device, CHANNELS):
        return why
    found = tuple(offers(problem, device))
    if not found:
        shares = f"{CLUSTERS[0]} to {CLUSTERS[-1]} blocks with chunks of {wide.CHUNK} hidden channels"
        return f"clusters of {shares} do not make {problem.hidden}"
    own = float(estimated_clocks(problem, found, device).min())
    if others := _of_many_pixels(problem, device):
        other = float(estimated_clocks(problem, (others,), device).min())
        if other <= own:
            return f"it is estimated at {own:.0f} clocks for {problem.pixels} pixels and {others.config.kernel} at {other:.0f}"
    return best(problem, found, device)


def _of_many_pixels(problem: ConvNeXtProblem, device: DeviceLimits) -> Offer | None:
    """The tile of the kernel that serves where this one does not."""
    kernel = wide if problem.C == wide.CHANNELS else planes
    config = kernel.configure(problem, device)
    return kernel.offer(problem, config, device) if isinstance(config, Config) else None


def offers(problem: ConvNeXtProblem, device: DeviceLimits) -> Iterator[Offer]:
    """Clusters whose blocks have whole chunks of the hidden channels."""
    for cluster in CLUSTERS:
        if problem.hidden % (cluster * wide.CHUNK) == 0 and (config := arrange(problem, device, cluster=cluster)):
            own = problem.C // cluster
            together = min(4, own // 16)  # pairs of channels that a warp convolves at once
            convolution = own // 2 * WINDOW * (16 // together + 4) * WAVEFRONT_BYTES  # counted from the kernel
            weights = 2 * problem.C * problem.hidden // cluster * ELEMENT_BYTES
            yield Offer(
                config=config,
                chunk=wide.CHUNK,
                filled=filled_patches(problem),
                operand_bytes=convolution
                + weights
                + exchange_bytes(PIXELS, problem.C, ELEMENT_BYTES)
                + exchange_bytes(PIXELS, problem.C),
                blocks_per_tile=cluster,
                macs_share=1 / cluster,
                loaded_share=1 / cluster,
                multiprocessors=resident_blocks(device.multiprocessors, cluster),
            )


def arrange(problem: ConvNeXtProblem, device: DeviceLimits, *, cluster: int) -> Config | None:
    """The longest ring; None where the sums or the items of a product would not fit it."""
    C, own, chunks = problem.C, problem.C // cluster, problem.hidden // cluster // wide.CHUNK
    stages = 1 if own < 2 * 32 else 2
    halos = stages * (HALO_BYTES + up(wide.table_bytes(), 512))
    shifted = 128 * wide.CHUNK * (2 if chunks > 1 else 1)  # gelu's halves, where the normalised channels were
    fixed = halos + 128 * own + max(128 * C, shifted) + WARPGROUPS * 512 + 6 * C + problem.hidden * ELEMENT_BYTES + 16 * stages
    items = chunks * wide.CHUNK * C * 2 * ELEMENT_BYTES // wide.ITEM_BYTES
    ring = min(LARGEST_RING, items, (device.shared_bytes_per_block - fixed) // (wide.ITEM_BYTES + 16))
    if ring * wide.ITEM_BYTES < max(4 * PIXELS * C, wide.CHUNK * C * ELEMENT_BYTES):
        return None
    shared = fixed + ring * (wide.ITEM_BYTES + 16)
    return Config(
        kernel=NAME,
        tile_rows=PATCH,
        tile_columns=PATCH,
        threads=128 * (WARPGROUPS + 1),
        shared_bytes=shared,
        blocks_per_multiprocessor=1,
        constants=(
            ("CHANNELS", C),
            ("EXPANSION", problem.expansion),
            ("RING_SLOTS", ring),
            ("CLUSTER", cluster),
            ("REGISTERS", wide.REGISTERS),
            ("SHARED_BYTES", shared),
        ),
    )


def launches(problem: ConvNeXtProblem, config: Config, device: DeviceLimits) -> tuple[Launch, ...]:
    """A cluster for each patch."""
    del device
    N, H, W, _ = problem.input_shape
    return (
        Launch(
            grid=(patches_of(problem) * config.defines["CLUSTER"], 1, 1),
            block=(config.threads, 1, 1),
            shared_bytes=config.shared_bytes,
            operands=operands(halo_box(problem), weights=3),
            arguments=(N, H, W),
            dependent=True,
        ),
    )


KERNEL: Final = Kernel(name=NAME, configure=configure, launches=launches, pack=wide.pack, moved_bytes=moved_bytes)

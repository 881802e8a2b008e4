"""What the host takes per call: chains of modules whose work the GPU finishes faster than it is issued, eager and through torch.compile.

A host's speed is no property of its GPU: two machines of one type differed twofold, and one machine from minute to minute. Therefore
`perfmodel hardware measure` takes these figures once for the device's file, and `perfmodel validate run` beside every case that waits
for the host.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from perfmodel.validation.python_stack import with_room
from perfmodel.validation.samples import Sample

CHAIN: Final = 32
"""Different modules in a chain, so that the host's caches see what they see in a network."""
STEPS: Final = ("block", "compiled call", "compiled convolutions", "compiled plain", "compiled pairs")
"""Chains that are timed as a network's steps are: each from an idle GPU to an idle GPU."""
NORM_INPUTS: Final = 4
"""Tensors of a norm, which compiled code is given, checks and hands to the kernel."""
REPEATS: Final = 7
ROUNDS: Final = 20


class HostProbe:
    """The chains, built once, with those of compiled code where there is a `compiler`; `samples` times them."""

    def __init__(self, torch: Any, compiler: Callable[[Any], Any] | None = None) -> None:
        nn = torch.nn
        self._torch = torch
        image = torch.randn(1, 64, 4, 4, device="cuda", dtype=torch.float16).to(memory_format=torch.channels_last)
        rows = torch.randn(8, 64, device="cuda", dtype=torch.float16)

        def chained(*modules: Any) -> Any:
            return nn.Sequential(*modules).cuda().half().eval().to(memory_format=torch.channels_last)

        def convolution(*, bias: bool = False) -> Any:
            return nn.Conv2d(64, 64, 3, padding=1, bias=bias)

        makers: tuple[tuple[str, Callable[[], Any], Any], ...] = (
            ("convolution", convolution, image),
            ("matrix", lambda: nn.Linear(64, 64), rows),
            ("norm", lambda: nn.BatchNorm2d(64), image),
            ("other", nn.ReLU, image),
            ("biased", lambda: convolution(bias=True), image),
        )
        self._chains: dict[str, Callable[[], Any]] = {}
        for name, make, given in makers:
            chain = chained(*(make() for _ in range(CHAIN)))
            self._chains[name] = lambda chain=chain, given=given: chain(given)  # type: ignore[misc]
        # as in a network no convolution is like the one before: every library call finds another plan, every norm other parameters
        unlike = chained(
            *(m for index in range(CHAIN) for m in (_unlike(nn, index), nn.BatchNorm2d(_width(index + 1)), nn.ReLU()))
        )
        start = torch.randn(1, _width(0), 4, 4, device="cuda", dtype=torch.float16).to(memory_format=torch.channels_last)
        self._chains["block"] = lambda: unlike(start)
        terms = [torch.randn_like(image) for _ in range(CHAIN)]

        def operators() -> Any:
            found = image
            for term in terms:
                found = found + term
            return found

        self._chains["operator"] = operators
        if compiler is not None:
            # a call of one kernel; of CHAIN convolutions; of CHAIN convolutions, each with a kernel after it, without parameters and with
            convolutions = chained(*(_unlike(nn, index) for index in range(CHAIN)))
            plain = chained(*(m for index in range(CHAIN) for m in (_unlike(nn, index), nn.ReLU())))
            for name, chain in (
                ("call", chained(nn.ReLU())),
                ("convolutions", convolutions),
                ("plain", plain),
                ("pairs", unlike),
            ):
                compiled = compiler(chain)
                self._chains[f"compiled {name}"] = lambda compiled=compiled: compiled(start)  # type: ignore[misc]

    def samples(self, repeats: int = REPEATS, rounds: int = ROUNDS) -> Iterator[Sample]:
        """Host seconds per call, by kind of call.

        Every repeat takes all chains, and differences are those of one repeat: a host's speed changes within tenths of a second.
        """
        with self._torch.inference_mode():
            found = with_room(lambda: self._seconds(repeats, rounds))
        each = {name: tuple(seconds / CHAIN for seconds in values) for name, values in found.items()}
        for name in ("convolution", "matrix", "norm", "other"):
            said = f"torch, {CHAIN} different modules of {name} in a chain"
            yield Sample(quantity=f"host_{name}_s", kernel=said, values=each[name])
        yield Sample(
            quantity="host_block_s", kernel=f"torch, {CHAIN} times convolution, norm, relu in a chain", values=each["block"]
        )
        yield Sample(quantity="host_operator_s", kernel=f"torch, {CHAIN} sums x + y in a row", values=each["operator"])
        # what a call launches beside its own kernel costs no call of Python
        yield _difference(
            "host_inner_s",
            f"torch, {CHAIN} convolutions with bias less {CHAIN} without",
            _less(each["biased"], each["convolution"]),
        )
        if "compiled call" in found:
            yield from _compiled(found)

    def moment(self) -> dict[str, float]:
        """Host seconds of a convolution, norm and relu now: in a pass of their chain, and in the pass after it; the same of compiled code.

        The first pass finds the host's caches full of what ran before, the second finds what it needs at hand.
        """
        found: dict[str, float] = {}
        for name, chain in (("blocks_s", "block"), ("pairs_s", "compiled pairs")):
            if chain in self._chains:
                found |= {name: self._pass_s(chain), f"hot_{name}": self._pass_s(chain)}
        return found

    def medians(self, repeats: int = 3, rounds: int = 4) -> dict[str, float]:
        """A short look: each quantity's median."""
        return {one.quantity: float(f"{one.median:.5g}") for one in self.samples(repeats, rounds)}

    def _pass_s(self, name: str) -> float:
        with self._torch.inference_mode():
            start = time.perf_counter()
            self._chains[name]()
            self._torch.cuda.synchronize()
        return (time.perf_counter() - start) / CHAIN

    def _seconds(self, repeats: int, rounds: int) -> dict[str, tuple[float, ...]]:
        """Of one pass of each chain, in each repeat."""
        for chain in self._chains.values():
            for _ in range(3):
                chain()
        found: dict[str, list[float]] = {name: [] for name in self._chains}
        for _ in range(repeats):
            for name, chain in self._chains.items():
                chain()  # its code and data back into the host's caches
                self._torch.cuda.synchronize()
                start = time.perf_counter()
                for _ in range(rounds):
                    chain()
                    if name in STEPS:
                        self._torch.cuda.synchronize()
                self._torch.cuda.synchronize()
                found[name].append((time.perf_counter() - start) / rounds)
        return {name: tuple(values) for name, values in found.items()}


def _compiled(found: Mapping[str, tuple[float, ...]]) -> Iterator[Sample]:
    """Compiled code by its parts: a kernel that the compiler wrote, a tensor that it is given, a call, a library's convolution.

    Calls of chains differ by CHAIN of one part each; the call of one kernel has the rest.
    """
    kernel = _less(found["compiled plain"], found["compiled convolutions"], CHAIN)
    given = _less(found["compiled pairs"], found["compiled plain"], NORM_INPUTS * CHAIN)
    call = _less(found["compiled call"], kernel)
    convolution = _less(found["compiled convolutions"], call, CHAIN)
    for part, said, values in (
        ("kernel", f"{CHAIN} pointwise kernels without parameters between convolutions", kernel),
        ("input", f"{NORM_INPUTS * CHAIN} parameters of norms between convolutions", given),
        ("call", "a call of one kernel, without it", call),
        ("convolution", f"{CHAIN} convolutions in a chain, without their weights", _less(convolution, given)),
        ("pair", f"{CHAIN} times convolution, norm and relu in a chain", tuple(one / CHAIN for one in found["compiled pairs"])),
    ):
        yield _difference(f"host_compiled_{part}_s", f"torch.compile, {said}", values)


def drowned(look: Mapping[str, float]) -> tuple[str, ...]:
    """Quantities of a look that are differences and came out as nothing or less: they have the least that is taken."""
    return tuple(quantity for quantity, seconds in look.items() if seconds <= LEAST_S)


def _difference(quantity: str, kernel: str, values: tuple[float, ...]) -> Sample:
    """A sample, which says in how many repeats the difference drowned in noise."""
    count = sum(seconds <= LEAST_S for seconds in values)
    detail = f"nothing or less in {count} of {len(values)} repeats, taken for {1e6 * LEAST_S:g} µs" if count else None
    return Sample(quantity=quantity, kernel=kernel, values=values, detail=detail)


def _width(index: int) -> int:
    """Channels between two convolutions: 16 to 120 in an order without a pattern; equal on both sides of a depthwise one."""
    return 16 + 8 * ((index - index // 3) * 5 % 14)


def _unlike(nn: Any, index: int) -> Any:
    """The convolution at a place of a chain: by turns 3×3, 1×1 and depthwise."""
    inputs, outputs = _width(index), _width(index + 1)
    if index % 3 == 2:
        return nn.Conv2d(inputs, outputs, 3, padding=1, groups=inputs, bias=False)
    size = 3 if index % 3 == 0 else 1
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)


LEAST_S: Final = 1e-7
"""What a difference of two noisy times is taken for at least: no call is free."""


def _less(long: tuple[float, ...], short: tuple[float, ...], parts: int = 1) -> tuple[float, ...]:
    """Of each part, the long times without the short ones of the same repeats, at least LEAST_S."""
    return tuple(max((one - other) / parts, LEAST_S) for one, other in zip(long, short, strict=True))

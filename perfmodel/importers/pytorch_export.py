"""Modules exported with tensors that have shapes but no data, so that no weights are needed and nothing is computed; at any size."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from perfmodel.errors import shown
from perfmodel.importers.program import ImportedModelError, Program
from perfmodel.importers.pytorch_module import first_line, quiet, torch_module
from perfmodel.importers.pytorch_nodes import Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """An exported module: its program at its own size, and at any other where no argument of its operations is a size."""

    name: str
    exported: Any
    trained: int

    def program(self) -> Program:
        """The program at the sizes that the module was exported with, or was last resized to."""
        return Reader(self.name, self.exported, self.trained).read()

    def resized(self, inputs: Sequence[Any]) -> Program | None:
        """The program for other sizes of the inputs, without another export; None where the module must be exported for them."""
        torch = torch_module()
        graph = self.exported.graph_module.graph
        if not all(_names_no_size(node) for node in graph.nodes):
            return None
        given = iter(inputs)
        kinds = {spec.arg.name: str(spec.kind.name) for spec in self.exported.graph_signature.input_specs}
        arguments = []
        for node in graph.nodes:
            if node.op == "placeholder":
                like = next(given) if kinds[node.name] == "USER_INPUT" else node.meta["val"]
                arguments.append(torch.empty(like.shape, dtype=like.dtype, device="meta"))
        before = {node: node.meta.get("val") for node in graph.nodes}
        mode = torch._subclasses.fake_tensor.FakeTensorMode()
        try:
            with quiet(), torch.no_grad():
                torch.fx.passes.fake_tensor_prop.FakeTensorProp(self.exported.graph_module, mode).propagate(*arguments)
                return self.program()
        except Exception:  # whatever a size that does not fit makes an operation raise: exporting again says it better
            return None
        finally:
            for node, value in before.items():
                node.meta["val"] = value


_SIZELESS: Final = frozenset(
    {
        *("conv2d", "batch_norm", "layer_norm", "group_norm", "linear", "dropout", "max_pool2d", "cat", "permute", "flatten"),
        *(
            "relu",
            "relu6",
            "silu",
            "gelu",
            "sigmoid",
            "hardswish",
            "hardsigmoid",
            "hardtanh",
            "tanh",
            "leaky_relu",
            "elu",
            "mish",
        ),
    }
)
"""Operations whose arguments, beside their tensors, belong to the module and not to the size of its input."""


def _names_no_size(node: Any) -> bool:
    """Whether a node does the same at every image size: none of its arguments could be a size that was written into the graph."""
    if node.op != "call_function":
        return True
    schema = getattr(node.target, "_schema", None)
    if schema is None or not str(schema.name).startswith("aten::"):
        return False
    base = str(schema.name).rpartition("::")[2].rstrip("_")
    others = [argument for argument in node.args[1:] if not hasattr(argument, "op")]
    if base in ("add", "mul"):
        return not others  # of two tensors; a number could be made of sizes
    if base == "mean":
        return True  # axes, and whether they are kept
    if base == "adaptive_avg_pool2d":
        return set(others[0] if isinstance(others[0], list | tuple) else others[:1]) == {1}
    return base in _SIZELESS


def export(module: Any, inputs: Sequence[Any], *, name: str) -> Exported:
    """Export `module` for inference on `inputs` (tensors whose data are not looked at).

    Raises ImportedModelError where PyTorch cannot export it.
    """
    torch = torch_module()
    was_training = module.training
    module.eval()
    trained = sum(p.numel() for p in module.parameters())
    try:
        with quiet(), torch.no_grad(), _contiguous_shown():
            exported = torch.export.export(module, tuple(inputs), strict=False)
    except Exception as error:
        reason = first_line(error)
        if "DataDependent" in type(error).__name__:
            reason = "which operations run depends on the contents of a tensor, which nobody knows here; leave the choice out"
        raise ImportedModelError(f"PyTorch cannot export {shown(name)}: {reason}") from None
    finally:
        module.train(was_training)
    return Exported(name=name, exported=exported, trained=trained)


@contextlib.contextmanager
def _contiguous_shown() -> Iterator[None]:
    """Calls of `contiguous` are exported even where they do nothing: exported tensors are NCHW, and in NHWC the same call copies."""
    torch = torch_module()
    given = torch.Tensor.contiguous

    def shown_call(self: Any, memory_format: Any = torch.contiguous_format) -> Any:
        return self.clone(memory_format=memory_format)

    torch.Tensor.contiguous = shown_call
    try:
        yield
    finally:
        torch.Tensor.contiguous = given


def size_of(inputs: Sequence[Any]) -> tuple[int, int]:
    """Batch and height of the first input; 1 where it has none. Raises ImportedModelError for what are no tensors."""
    torch = torch_module()
    if not inputs or not all(isinstance(item, torch.Tensor) for item in inputs):
        raise ImportedModelError("example_inputs must be a tensor or a sequence of tensors")
    shape = inputs[0].shape
    return (int(shape[0]) if shape else 1), (int(shape[2]) if len(shape) > 2 else 1)


class Resizable:
    """A module and the inputs to export it with, at any batch and image size. Raises ImportedModelError for what is no module."""

    def __init__(self, module: Any, inputs: Sequence[Any], name: str) -> None:
        torch = torch_module()
        if not isinstance(module, torch.nn.Module):
            raise ImportedModelError(f"from_torch needs a torch.nn.Module, not {type(module).__name__}")
        self._module, self._inputs, self._name = module, list(inputs), name
        self._exported: Exported | None = None

    def program(self, batch: int, resolution: int) -> Program:
        """The program for a first input of that batch and, if it is an image, of that height and width.

        The module is exported once where no argument of its operations is a size, and again for each size otherwise. Raises
        ImportedModelError where it cannot be.
        """
        torch = torch_module()
        first = self._inputs[0]
        shape = list(first.shape)
        if shape:
            shape[0] = batch
        if len(shape) > 2 and resolution != shape[2]:
            shape[2:] = [resolution] * (len(shape) - 2)
        home = next((parameter.device for parameter in self._module.parameters()), first.device)
        shapes = [shape, *(list(item.shape) for item in self._inputs[1:])]
        inputs = [
            item if sizes == list(item.shape) and item.device == home else torch.empty(sizes, dtype=item.dtype, device=home)
            for sizes, item in zip(shapes, self._inputs, strict=True)
        ]
        program = self._exported.resized(inputs) if self._exported is not None else None
        if program is None:
            self._exported = export(self._module, inputs, name=self._name)
            program = self._exported.program()
        return program

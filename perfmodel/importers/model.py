"""The door: a model by any of the names that a user may give it."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from perfmodel.errors import PerfmodelError, shown
from perfmodel.importers.blocks import find_blocks
from perfmodel.importers.build import build as build_graph
from perfmodel.importers.program import ImportedModelError, Program
from perfmodel.importers.recognise import recognise
from perfmodel.network import Network
from perfmodel.networks import catalog

TIMM = "timm:"


def network(model: str, *, batch: int | None = None, resolution: int | None = None, classes: int | None = None) -> Network:
    """The network that `model` names, for `batch` square images (1, or an ONNX file's own) of `resolution` pixels (the network's own).

    `model` is a name of the catalogue; a file that ends in `.onnx`; `timm:NAME`, built without weights and without a download; or
    `package.module:function`, whose function is *run* and must return a torch.nn.Module. `classes` (1000) counts for the catalogue and for
    timm. Raises PerfmodelError.
    """
    if model.lower().endswith(".onnx"):
        _refuse_classes(model, classes)
        return from_onnx(model, batch=batch, resolution=resolution)
    if ":" not in model:
        return catalog.build(
            model, batch=1 if batch is None else batch, resolution=resolution, classes=1000 if classes is None else classes
        )
    images = 1 if batch is None else catalog.whole_batch(batch)
    size = None if resolution is None else catalog.whole_resolution(resolution)
    from perfmodel.importers import pytorch_export, pytorch_module

    if model.lower().startswith(TIMM):
        count = 1000 if classes is None else catalog.whole_classes(classes)

        def at(batch: int, resolution: int | None) -> Network:
            module, own = pytorch_module.timm_module(model[len(TIMM) :], count, resolution)
            image = pytorch_module.image_like(module, batch, own)
            exported = pytorch_export.export(module, [image], name=model)
            return network_of(exported.program(), batch, own, at)

        return at(images, size)
    _refuse_classes(model, classes)
    module = pytorch_module.user_module(model)

    def resized(batch: int, resolution: int) -> Network:
        image = pytorch_module.image_like(module, batch, resolution)
        try:
            exported = pytorch_export.export(module, [image], name=model)
        except ImportedModelError as error:
            shape = "×".join(map(str, image.shape))
            raise ImportedModelError(
                f"{error} (it was given one image of {shape}; perfmodel.from_torch(module, example_inputs) takes any inputs)"
            ) from None
        return network_of(exported.program(), batch, resolution, resized)

    return resized(images, size or 224)


def is_imported(model: str) -> bool:
    """Whether a name is that of a model outside of the catalogue."""
    return ":" in model or model.lower().endswith(".onnx")


def _refuse_classes(model: str, classes: int | None) -> None:
    if classes is not None and classes != 1000:
        raise PerfmodelError(f"{shown(model)} has the classes that it was made with; leave the number of classes out")


def from_torch(module: Any, example_inputs: Any, *, name: str | None = None) -> Network:
    """The network of a torch.nn.Module, for inputs like `example_inputs` (a tensor or a sequence of them; their data are not looked at).

    Nothing is computed: the module is exported with tensors that have shapes alone, and may itself be on the meta device. Another batch or
    image size is then to be had from `Network.at`, or by naming them to `predict`: without another export where the module works for any
    size, by exporting it again where it does not. Raises MissingExtraError and ImportedModelError.
    """
    from perfmodel.importers import pytorch_export

    inputs = list(example_inputs) if isinstance(example_inputs, list | tuple) else [example_inputs]
    return _from_torch(pytorch_export.Resizable(module, inputs, name or type(module).__name__), *pytorch_export.size_of(inputs))


def _from_torch(resizable: Any, batch: int, resolution: int) -> Network:
    return network_of(resizable.program(batch, resolution), batch, resolution, lambda b, r: _from_torch(resizable, b, r))


def from_onnx(path: str | PathLike[str], *, batch: int | None = None, resolution: int | None = None) -> Network:
    """The network in an ONNX file. The file is untrusted: nothing of it is run, and no weights are read.

    `batch` and `resolution` replace the sizes of the first input where the file leaves them open, and where it does not if its nodes work
    for others, too. Raises MissingExtraError, and ImportedModelError for a file that cannot be used.
    """
    from perfmodel.importers import onnx_file

    model = onnx_file.OnnxModel.read(Path(path))

    def at(batch: int | None, resolution: int | None) -> Network:
        program, images, size = model.program(batch, resolution)
        return network_of(program, images, size, at)

    return at(
        None if batch is None else catalog.whole_batch(batch),
        None if resolution is None else catalog.whole_resolution(resolution),
    )


def network_of(program: Program, batch: int, resolution: int, rebuild: Any) -> Network:
    """The network of a program as a front end made it, which is rewritten on the way; `rebuild` makes it at another size."""
    recognise(program)
    graph = find_blocks(build_graph(program))
    return Network(name=program.name, graph=graph, batch=batch, resolution=resolution, trained=program.trained, rebuild=rebuild)

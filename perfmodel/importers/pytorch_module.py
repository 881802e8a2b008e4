"""PyTorch modules by name: timm's without weights, and what a user's function returns."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any, Final

from perfmodel.errors import PerfmodelError, UnknownNameError, shown
from perfmodel.importers.program import ImportedModelError, MissingExtraError

EXTRA: Final = "torch"


def torch_module() -> Any:
    """The library; raises MissingExtraError."""
    try:
        torch = importlib.import_module("torch")
        importlib.import_module("torch.fx.passes.fake_tensor_prop")
        return torch
    except ImportError:
        raise MissingExtraError("importing a PyTorch model", "torch", EXTRA) from None


def timm_module(name: str, classes: int | None, resolution: int | None) -> tuple[Any, int]:
    """The network `name` of timm without weights, on no device, and the image size that it is made for; nothing is downloaded.

    `classes` None is the number that timm has for it (that of its best-known weights).

    Raises MissingExtraError, UnknownNameError with the nearest names, or ImportedModelError where timm cannot build it.
    """
    torch = torch_module()
    try:
        timm = importlib.import_module("timm")
    except ImportError:
        raise MissingExtraError(f"timm:{shown(name)}", "timm", EXTRA) from None
    stem = name.split(".", 1)[0]
    if not timm.is_model(stem):
        raise UnknownNameError("timm network", name, timm.list_models())
    configuration = timm.get_pretrained_cfg(name, allow_unregistered=True)
    size = resolution or (configuration.input_size[-1] if configuration and configuration.input_size else 224)
    given: dict[str, Any] = {"pretrained": False, **({} if classes is None else {"num_classes": classes})}
    with quiet(), torch.device("meta"):
        try:
            try:
                module = timm.create_model(stem, **given, img_size=size)
            except TypeError:  # a network that takes images of any size
                module = timm.create_model(stem, **given)
        except PerfmodelError:
            raise
        except Exception as error:
            raise ImportedModelError(f"timm cannot build {shown(name)}: {first_line(error)}") from None
    return module.eval(), size


def user_module(reference: str) -> Any:
    """What `package.module:function` returns, which must be a torch.nn.Module. This runs the user's code.

    Raises ImportedModelError where there is no such module or function, where it fails, and where it returns something else.
    """
    torch = torch_module()
    path, _, attribute = reference.partition(":")
    if not path:
        raise ImportedModelError(f"{shown(reference)}: write the module before the colon, as in my_package.models:make_net")
    import os
    import sys

    here = os.getcwd()  # noqa: PTH109 - sys.path holds text
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m` has it: a model in the current folder is found
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what a user's code prints is not part of the answer
            home = importlib.import_module(path)
    except ModuleNotFoundError as error:
        raise ImportedModelError(
            f"{shown(reference)}: there is no module {shown(error.name or path)}; "
            "run the command in the folder that holds it, or install its package"
        ) from None
    except (Exception, SystemExit) as error:
        raise ImportedModelError(f"{shown(reference)}: importing {shown(path)} failed: {first_line(error)}") from None
    try:
        made = getattr(home, attribute)
    except AttributeError:
        known = [name for name, value in vars(home).items() if callable(value) and not name.startswith("_")]
        raise UnknownNameError(f"function of {shown(path)}", attribute, known) from None
    if isinstance(made, torch.nn.Module):
        return made.eval()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            module = made()
    except (Exception, SystemExit) as error:
        raise ImportedModelError(f"{shown(reference)}() failed: {first_line(error)}") from None
    if not isinstance(module, torch.nn.Module):
        raise ImportedModelError(f"{shown(reference)}() returned {type(module).__name__}, but must return a torch.nn.Module")
    return module.eval()


def image_like(module: Any, batch: int, resolution: int) -> Any:
    """An input image without data, on the device and of the type of the module's parameters."""
    torch = torch_module()
    first = next((p for p in module.parameters() if p.is_floating_point()), None)
    device = "meta" if first is None else first.device
    dtype = torch.float32 if first is None else first.dtype
    channels = getattr(module, "in_chans", None) or _input_channels(module)
    return torch.empty(batch, channels, resolution, resolution, device=device, dtype=dtype)


def _input_channels(module: Any) -> int:
    """Channels that the first convolution of a module reads; 3 where it has none."""
    torch = torch_module()
    convolution = next((m for m in module.modules() if isinstance(m, torch.nn.Conv2d)), None)
    return 3 if convolution is None else int(convolution.in_channels)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What libraries say on the way is not for the user of a command."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        said = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def first_line(error: BaseException) -> str:
    """An error of a library's or a user's code, short enough for a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shown(f"{type(error).__name__}{f': {lines[0]}' if lines else ''}", 200)

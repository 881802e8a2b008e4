"""Modules at other sizes than the one they were exported with."""

import pytest
import torch
from torch import nn

import perfmodel
from perfmodel.errors import PerfmodelError
from perfmodel.schedule import NAMES
from tests_torch.modules import Inverted, Shuffle, costs, imported


@pytest.mark.parametrize("schedule", NAMES)
def test_batch_and_resolution_can_be_changed(schedule: str) -> None:
    module = nn.Sequential(Inverted("conv mean"), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    network = imported(module)
    changed = perfmodel.predict(network, "h200", batch=8, resolution=28, schedule=schedule)
    again = imported(module, 8, 16, 28, 28)
    assert costs(changed.network, schedule) == costs(again, schedule)


def test_another_size_needs_no_other_export_where_the_module_names_no_size(monkeypatch: pytest.MonkeyPatch) -> None:
    free = nn.Sequential(Inverted("conv mean"), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    named = Shuffle()
    expected = [imported(module, 8, 16, 28, 28) for module in (free, named)]
    networks = [imported(module) for module in (free, named)]
    exports: list[str] = []
    export = torch.export.export

    def counted(module: nn.Module, *arguments: object, **options: object) -> object:
        exports.append(type(module).__name__)
        return export(module, *arguments, **options)

    monkeypatch.setattr(torch.export, "export", counted)
    for network, wanted in zip(networks, expected, strict=True):
        assert costs(network.at(8, 28), "eager") == costs(wanted, "eager")
        assert costs(network.at(2, 14), "eager") == costs(network, "eager")  # and back
    assert set(exports) == {"Shuffle"}


class Rigid(nn.Module):
    """Works for one image size alone."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16 * 14 * 14, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1))


def test_a_size_that_the_module_does_not_take_is_a_sentence() -> None:
    network = imported(Rigid())
    assert network.at(5, 14).macs == 5 * 16 * 14 * 14 * 10
    with pytest.raises(PerfmodelError, match="cannot export Rigid"):
        network.at(2, 28)


def test_a_module_on_the_cpu_in_training_mode_is_left_as_it_was() -> None:
    module = Inverted("conv mean").train()
    network = perfmodel.from_torch(module, torch.zeros(2, 16, 14, 14))
    assert module.training
    assert costs(network, "layer") == costs(imported(Inverted("conv mean")), "layer")

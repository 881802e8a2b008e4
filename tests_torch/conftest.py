"""Shared by the tests that need PyTorch: how two networks are compared."""

import warnings

import pytest

warnings.simplefilter("ignore")  # of the libraries under test; what perfmodel itself warns of is an error in `make test`


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore"))

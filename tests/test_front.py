"""The library's front: every name is there, typed, and brings nothing that it does not need."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import vitrine


@pytest.mark.parametrize("name", vitrine.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(vitrine, name) is not None
    assert name in dir(vitrine)


def test_the_version_is_the_package_s() -> None:
    assert vitrine.__version__ == version("vitrine")


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = vitrine.nothing


def test_importing_the_front_and_opening_a_lake_brings_neither_torch_nor_prefect() -> None:
    program = "import sys, vitrine; vitrine.open_lake, vitrine.Reader; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {"torch", "prefect", "typer"} & set(done.stdout.split()) == set()

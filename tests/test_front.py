"""The library's front: every name is there, typed, and brings nothing that it does not need."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import vitrine
from vitrine.demo.draw_catalogue import draw_catalogue


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


def test_the_command_runs_no_code_of_the_current_directory(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("vitrine")
    if not command.exists():
        pytest.skip("the command is not installed beside this Python")
    names = (
        "uvicorn duckdb torch numpy PIL rich typer boto3 obstore deltalake json sitecustomize vitrine lake tasks flows"
    )
    for name in names.split():
        (tmp_path / f"{name}.py").write_text("raise SystemExit('code of the current directory was run')")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    draw_catalogue(tmp_path / "pictures", products=1, views=1, size=32)
    for arguments in (["ingest", "pictures"], ["sql", "FROM images"], ["status"], ["doctor"]):
        done = subprocess.run(
            [command, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

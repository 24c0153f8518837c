"""`vitrine doctor`: is this machine, and is this lake, as a night needs them?"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitrine.cli.options import JsonOption, LakeOption
from vitrine.cli.output import print_result

if TYPE_CHECKING:
    from lake.health import Finding

PACKAGES = ("vitrine", "prefect", "torch", "faiss-cpu", "pyarrow", "deltalake", "duckdb", "obstore", "boto3", "pillow")
LEAST_FREE = 1 << 30  # bytes


def doctor(
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what is safe: damaged newest entries go aside.")
    ] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Read every file, and compare it with its checksum.")] = False,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look for what is wrong with the lake or this machine.

    Says how to mend each; exit code 1 where something is wrong.
    """
    from flows.settings import read_settings
    from lake.errors import LakeBusy, LakeError
    from lake.health import Finding, examine
    from vitrine.cli.summaries import print_findings

    settings = read_settings()
    findings = [*_machine(settings.cache_directory), *_prefect()]
    try:
        findings += examine(lake or settings.lake_uri, repair=repair, deep=deep)
    except LakeBusy:
        raise
    except LakeError as error:
        findings.append(Finding("lake", "bad", str(error)))
    print_result(as_json, findings, print_findings)
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)


def _machine(cache: Path) -> Iterator[Finding]:
    """What runs here, and the room that there is."""
    from lake.health import Finding

    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding(
        "versions", "good", ", ".join([f"Python {python}", *(f"{name} {version(name)}" for name in PACKAGES)])
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding("machine", "good", f"{os.cpu_count()} cores, {memory / 1e9:.1f} GB of memory")
    for what, variable, find in (
        ("temporary files", "TMPDIR", tempfile.gettempdir),
        ("cache", "VITRINE_CACHE", lambda: str(next(each for each in (cache, *cache.parents) if each.is_dir()))),
    ):
        try:
            folder = find()
            free = shutil.disk_usage(folder).free
        except OSError as error:
            yield Finding(what, "bad", str(error), f"set {variable} to a directory that can be written")
            continue
        if not os.access(folder, os.W_OK):
            yield Finding(what, "bad", f"{folder} can't be written", f"set {variable} to a directory that can")
        else:
            full = free < LEAST_FREE
            says, remedy = f"{folder}, {free / 1e9:.1f} GB free", f"make room, or set {variable}" if full else ""
            yield Finding(what, "warning" if full else "good", says, remedy)


def _prefect() -> Iterator[Finding]:
    from flows.here import api_url
    from lake.health import Finding

    url = api_url()
    if url is None:
        yield Finding("prefect", "good", "no server is named: commands run in their own process")
        return
    import httpx

    try:
        httpx.get(f"{url}/health", timeout=5).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        says = f"the server at {url} does not answer ({error})"
        yield Finding("prefect", "bad", says, "start it, or run without one (PREFECT_API_URL= )")
    else:
        yield Finding("prefect", "good", f"the server at {url} answers")

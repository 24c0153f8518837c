"""The `vitrine` command."""

from __future__ import annotations

from vitrine.cli.app import main

__all__ = ["main"]

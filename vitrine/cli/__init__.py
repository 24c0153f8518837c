"""The `vitrine` command."""

from vitrine.cli.app import main

__all__ = ["main"]

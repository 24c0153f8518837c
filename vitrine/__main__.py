"""`python -m vitrine`: the command line."""

from __future__ import annotations

from vitrine.cli import main

main()

"""`python -m vitrine`: the command line."""

from vitrine.cli import main

main()

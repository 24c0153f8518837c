"""A small shop, drawn: what a visitor sees first, and what tests and benchmarks work on."""

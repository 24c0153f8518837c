"""Asking the published index: neighbours of a key or a picture, near-identical pictures."""

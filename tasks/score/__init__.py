"""From stored pixels to rows of `scores`."""

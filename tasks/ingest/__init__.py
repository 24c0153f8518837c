"""From objects in a source to rows of `images`."""

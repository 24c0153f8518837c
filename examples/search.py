"""Search from a program: the pictures of other products that look most like one of the catalogue.

    python examples/search.py LAKE IMAGE_KEY [K]

Reads the published index, verified before it is opened; needs neither torch nor a server.
"""

from __future__ import annotations

import sys

import vitrine


def main(lake: str, image_key: str, k: str = "5") -> None:
    """Print similarity, polarity and key of each neighbour, nearest first."""
    reader = vitrine.Reader(vitrine.open_lake(lake))
    filters = vitrine.Filters(other_products=True, one_per_product=True)
    (neighbours,) = reader.search_keys([image_key], k=int(k), filters=filters)
    for each in neighbours:
        print(f"{each['similarity']:.3f}  {each['polarity']:.3f}  {each['image_key']}")
    # A program that stays up calls reader.refresh() now and then: True where a newer version was published.


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What an index is made of: the sizes of its parts, and faiss's name for them.

Knows nothing about files or searching. Sizes follow docs and measurements, not taste: 4-bit fast-scan codes
choose candidates, and exact distances of the fp16 vectors rank them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

IndexKind = Literal["flat", "pq", "ivfpq"]
Metric = Literal["cosine", "euclidean"]

FLAT_NUMBERS = 2_500_000  # of all vectors, which a query is compared with about as quickly as with their codes
FLAT_ROWS = 20_000  # however few numbers each has
REDUCED_DIMENSION = 256
POINTS_PER_CENTROID = 39  # fewer, and faiss's k-means warns that centroids are noise
TRAINING_BYTES = 1 << 30
CODE_BITS = 4  # of each sub-quantizer: fast-scan codes, compared in registers
PQ_CENTROIDS = 1 << CODE_BITS  # of each sub-quantizer
PQ_TRAINING_ROWS = 256 * PQ_CENTROIDS  # k-means looks at 256 points for each centroid
ID_BYTES = 8


@dataclass(frozen=True)
class IndexSpec:
    """The parts of an index.

    `flat` keeps vectors only and compares all of them. `ivfpq` sorts product-quantized codes into `nlist` lists.
    `pq` is the same with one list, so that filters and merged shards work in one way for both.
    """

    kind: IndexKind
    dimension: int
    metric: Metric = "cosine"
    pca: int | None = None  # dimension after the rotation; None leaves vectors as they are
    nlist: int = 1
    pq_subquantizers: int = 0

    def __post_init__(self) -> None:
        rules = {
            f"kind is one of {get_args(IndexKind)}": self.kind in get_args(IndexKind),
            f"metric is one of {get_args(Metric)}": self.metric in get_args(Metric),
            "dimension is at least 1": self.dimension >= 1,
            "pca lies in 1..dimension": self.pca is None or 1 <= self.pca <= self.dimension,
            "nlist is at least 1": self.nlist >= 1,
            "flat and pq have one list": self.kind == "ivfpq" or self.nlist == 1,
        }
        if self.kind != "flat":
            rules["pq_subquantizers divides the encoded dimension"] = (
                self.pq_subquantizers >= 1 and self.encoded_dimension % self.pq_subquantizers == 0
            )
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise ValueError(f"{broken[0]}: {self}")

    @classmethod
    def for_catalogue(
        cls,
        count: int,
        dimension: int,
        *,
        metric: Metric = "cosine",
        flat_below: int | None = None,
        kind: IndexKind = "ivfpq",
    ) -> Self:
        """Choose the parts for `count` vectors.

        Below `flat_below`, by default FLAT_NUMBERS / dimension and at most FLAT_ROWS, comparing with everything is
        about as quick, and exact. Above it: PCA to 256 dimensions, half a byte of code for two of them, and the power
        of two nearest 4·√count lists that leaves k-means 39 points a centroid. Too few to train on are kept flat,
        whatever `flat_below` says.
        """
        if flat_below is None:
            flat_below = min(FLAT_ROWS, FLAT_NUMBERS // dimension)
        if kind == "flat" or count < flat_below:
            return cls("flat", dimension, metric)
        # An odd dimension cannot be cut in pairs, so the rotation also drops its weakest axis.
        reduced = min(REDUCED_DIMENSION, max(1, dimension - dimension % 2))
        pca = reduced if reduced < dimension else None
        nlist = 1 if kind == "pq" else _lists_for(count)
        if nlist == 1 and kind == "ivfpq":
            kind = "pq"
        chosen = cls(kind, dimension, metric, pca=pca, nlist=nlist, pq_subquantizers=max(1, reduced // 2))
        return chosen if count >= chosen.minimum_training_rows else cls("flat", dimension, metric)

    def serves(self, count: int, *, flat_below: int | None = None, kind: IndexKind = "ivfpq") -> bool:
        """Whether an index of these parts is still right for `count` vectors; if not, another is worth its training.

        Lists may be half or twice as many as would be chosen now, which is 4 to 16 times the vectors; and a
        catalogue about as large as `flat_below` does not change its kind from night to night.
        """

        def choose(count: int) -> IndexSpec:
            return IndexSpec.for_catalogue(count, self.dimension, metric=self.metric, flat_below=flat_below, kind=kind)

        best = choose(count)
        if self.kind == "flat":
            return best.kind == "flat"
        if best.kind == "flat":
            best = choose(2 * count)
        # Of pq and ivfpq only the lists differ.
        same_codes = (best.pca, best.pq_subquantizers) == (self.pca, self.pq_subquantizers)
        return same_codes and self.nlist <= 2 * best.nlist <= 4 * self.nlist

    @property
    def encoded_dimension(self) -> int:
        """The dimension that codes describe."""
        return self.pca or self.dimension

    @property
    def training_rows(self) -> int:
        """How many vectors to train on: 64 to 100 a list, as 1 GiB of float32 allows; 0 for flat."""
        if self.kind == "flat":
            return 0
        affordable = TRAINING_BYTES // (4 * self.dimension)
        rows = min(max(affordable, 64 * self.nlist), 100 * self.nlist)
        return max(rows, self.minimum_training_rows, PQ_TRAINING_ROWS)

    @property
    def minimum_training_rows(self) -> int:
        """Fewer than this, and k-means or the PCA has no solution."""
        return 0 if self.kind == "flat" else max(self.nlist, PQ_CENTROIDS, self.pca or 0)

    @property
    def code_bytes(self) -> int:
        """Memory a row of an open index takes: its code and its 64-bit id."""
        if self.kind == "flat":
            return 0
        return (self.pq_subquantizers * CODE_BITS + 7) // 8 + ID_BYTES

    @property
    def bytes_per_vector(self) -> int:
        """Disk that a row takes: code, id and fp16 vector; keys not counted."""
        return self.code_bytes + 2 * self.dimension

    def factory_string(self) -> str:
        """Render the spec for `faiss.index_factory`, such as `PCAR256,IVF1024,PQ128x4fs`."""
        if self.kind == "flat":
            return "Flat"
        rotation = [f"PCAR{self.pca}"] if self.pca else []
        return ",".join([*rotation, f"IVF{self.nlist}", f"PQ{self.pq_subquantizers}x{CODE_BITS}fs"])

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Check the dictionary that `asdict` makes.

        Raises:
            ValueError: a value that no index can have.
            TypeError: a field that is missing or not known.
        """
        return cls(**values)


def _lists_for(count: int) -> int:
    """The power of two nearest 4·√count, halved until 39 rows a list exist."""
    nlist = 1 << max(0, round(math.log2(4 * math.sqrt(max(count, 1)))))
    while nlist > 1 and nlist * POINTS_PER_CENTROID > count:
        nlist //= 2
    return nlist

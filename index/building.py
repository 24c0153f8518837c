"""Turns vectors into the files of an index version: quantizers trained once, then one shard at a time.

A shard's files never change. Another version may name them again, where they lie, and list which of their rows
are masked. Knows local directories only. Everything is checked here before faiss sees it, because faiss accepts NaN,
zero vectors and duplicates in silence.

Shapes: N rows, D dimension.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from index.errors import BadVectors, CorruptIndex, NotAnIndex
from index.spec import CODE_BITS, PQ_CENTROIDS, IndexSpec

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

untyped: Any = faiss  # whose stubs are stricter than the library, or wrong, where this name is used

FORMAT = 1
DESCRIPTION = "index.json"
TRAINED = "trained.faiss"
MASKED = "masked.parquet"
CODES = ".codes.zst"
CODES_COMPRESSION = "zstd"
BLOCK_BYTES = 64 << 20
FP16_MAX = 65_504.0

_byte_limit = threading.Lock()


@dataclass(frozen=True)
class ShardFiles:
    """One shard as written: its number, its rows and the names of its files in the directory."""

    number: int
    rows: int
    files: tuple[str, ...]


@dataclass(frozen=True)
class Shard:
    """One shard of a version: `path` is that of its files without their endings, from the version's directory."""

    path: str
    rows: int  # the masked ones too

    def files(self, spec: IndexSpec) -> tuple[str, ...]:
        """Vectors, keys and, unless flat, codes."""
        return shard_files(self.path, spec)


@dataclass(frozen=True)
class Codebook:
    """What is known of the quantizers since they were trained, to tell when they no longer fit.

    Distances are mean squared ones to the nearest centroid; an imbalance of 1 means that all lists are equally
    long. The last three change from version to version.
    """

    path: str  # of the trained index, from the version's directory
    version: int  # that trained it
    reason: str  # why
    trained_rows: int
    coarse_distance: float  # of the training's rows
    imbalance: float = 1.0  # of the lists when they were new
    imbalance_now: float = 1.0
    added_rows: int = 0  # encoded since
    added_distance: float = 0.0  # of those


@dataclass(frozen=True)
class IndexDescription:
    """What `index.json` says: the parts, the shards, the rows that search answers from, and how to search them.

    `recall` is what was measured at this nprobe and rerank_factor; empty before measuring. `model_version`
    made the vectors; `fingerprint` is the caller's name for the exact rows that went in. `codebook` is None in
    a flat index.
    """

    spec: IndexSpec
    rows: int  # that are not masked
    shards: tuple[Shard, ...]
    model_version: int
    fingerprint: str
    nprobe: int = 32
    rerank_factor: int = 4
    recall: dict[str, float] = field(default_factory=dict)
    codebook: Codebook | None = None
    masked: str | None = None  # name of the table of masked rows; None: there are none

    def __post_init__(self) -> None:
        rules = {
            "rows is a count": self.rows >= 0,
            "rows need a shard": self.rows == 0 or len(self.shards) > 0,
            "shards hold the rows": sum(shard.rows for shard in self.shards) >= self.rows,
            "nprobe is at least 1": self.nprobe >= 1,
            "rerank_factor is at least 1": self.rerank_factor >= 1,
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise ValueError(f"{broken[0]}: {self}")

    @property
    def trained(self) -> str:
        """Where the trained index lies, from the version's directory."""
        return TRAINED if self.codebook is None else self.codebook.path

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `index.json`."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: a field is missing, of the wrong type or impossible.
        """
        known = {each.name: values[each.name] for each in fields(cls)}
        for name in ("rows", "model_version", "nprobe", "rerank_factor"):
            if type(known[name]) is not int:
                raise TypeError(f"{name}: expected an integer, found {known[name]!r}")
        parts = {
            "spec": IndexSpec.from_dict(values["spec"]),
            "shards": tuple(Shard(**shard) for shard in values["shards"]),
            "recall": {name: float(value) for name, value in dict(values["recall"]).items()},
            "codebook": None if values["codebook"] is None else Codebook(**values["codebook"]),
        }
        return cls(**known | parts)


def shard_path(number: int) -> str:
    """The path of a shard's files without their endings, in the version that writes it."""
    return f"shard-{number:05d}"


def shard_files(path: str, spec: IndexSpec) -> tuple[str, ...]:
    """The files of a shard: vectors, keys and, unless flat, codes."""
    codes = () if spec.kind == "flat" else (f"{path}{CODES}",)
    return (f"{path}.vectors.npy", f"{path}.keys.parquet", *codes)


def set_threads(count: int) -> None:
    """Set how many threads faiss uses for what the calling thread asks of it.

    OpenMP keeps the number for each thread, so a pool's workers set it themselves. More than there are free
    cores is slow: they spin while they wait, unless OMP_WAIT_POLICY=passive was set before the process began.
    """
    faiss.omp_set_num_threads(count)


def train_quantizers(sample: npt.ArrayLike, spec: IndexSpec, *, seed: int) -> bytes:
    """Learn the rotation, the lists and the codes of `spec`; return the empty index, serialized.

    Train once and hand the same bytes to every `write_shard`: PCA differs in its last bits with the number of
    threads, and shards of different trainings do not merge.

    Args:
        sample: N×D, about `spec.training_rows` rows.
        spec: of kind pq or ivfpq.
        seed: of k-means.

    Raises:
        BadVectors: bad values, or too few rows for the spec.
    """
    if spec.kind == "flat":
        raise ValueError("a flat index has nothing to train")
    vectors = _of_dimension(sample, spec)
    if len(vectors) < spec.minimum_training_rows:
        raise BadVectors(
            f"{spec.factory_string()} needs at least {spec.minimum_training_rows} training rows, found {len(vectors)}"
        )
    _refuse_bad_rows(vectors, spec, lambda row: f"training row {row}")
    index = faiss.index_factory(spec.dimension, spec.factory_string(), faiss.METRIC_L2)
    inverted = inverted_file(index)
    inverted.cp.seed = seed
    inverted.pq.cp.seed = seed
    # Codes of the vectors themselves, not of what is left beyond their list's centroid: a query's table of
    # distances is then computed once, not once a list, which took longer than reading the codes.
    inverted.by_residual = False
    index.train(as_compared(vectors, spec))
    return bytes(faiss.serialize_index(index).tobytes())


def mean_coarse_distance(trained: bytes, vectors: npt.ArrayLike, spec: IndexSpec) -> float:
    """The mean squared distance of vectors to their list's centroid.

    Compare new rows with the training sample: above 1.2 times, the quantizers no longer fit what comes in,
    which the recall over all rows hides for a long time.
    """
    index = load_trained(trained, spec)
    encoded = to_encoded(index, as_compared(_of_dimension(vectors, spec), spec))
    distances, _ = inverted_file(index).quantizer.search(encoded, 1)
    return float(distances.mean())


def write_shard(
    directory: Path,
    number: int,
    vectors: npt.ArrayLike,
    keys: pa.Table,
    trained: bytes | None,
    spec: IndexSpec,
) -> ShardFiles:
    """Check and write one shard; row i of `vectors` belongs to row i of `keys`.

    Args:
        directory: exists; holds all shards of one version.
        number: from 0, among the shards that this version writes.
        vectors: N×D; normalised here when the metric is cosine.
        keys: N rows; `image_key` is required, other columns pass through.
        trained: what `train_quantizers` returned; None for flat.
        spec: the same for every shard of a version.

    Raises:
        BadVectors: a wrong shape or length, NaN or infinity, a zero vector under cosine, values beyond fp16,
            a key that is missing or there twice. Nothing is written then.
    """
    rows = _of_dimension(vectors, spec)
    names = _checked_keys(keys, len(rows))
    _refuse_bad_rows(rows, spec, lambda row: repr(names[row].as_py()))
    index = _empty_index(trained, spec)
    files = shard_files(shard_path(number), spec)
    _write_vectors(directory / files[0], rows, spec, index)
    parquet.write_table(keys, directory / files[1], compression="zstd")
    if index is not None and trained is not None:
        write_codes(directory / files[2], index, trained)
    logger.info("wrote shard %d: %d rows of %s", number, len(rows), spec.factory_string())
    return ShardFiles(number, len(rows), files)


def write_codes(path: Path, index: Any, trained: bytes) -> None:
    """Write the lists of an index that `trained` became when rows were added to it.

    The sha256 of the quantizers stands before the lists; they themselves lie beside the shards, once. Compressed,
    because the lists of a small shard are mostly the padding of their blocks.
    """
    writer = faiss.VectorIOWriter()
    untyped.write_InvertedLists(inverted_file(index).invlists, writer)
    with pa.OSFile(str(path), "wb") as file, pa.CompressedOutputStream(file, CODES_COMPRESSION) as compressed:
        compressed.write(hashlib.sha256(trained).digest())
        compressed.write(pa.py_buffer(faiss.vector_to_array(writer.data)))


def write_trained(directory: Path, trained: bytes) -> str:
    """Write the trained index beside its shards; return the file's name."""
    (directory / TRAINED).write_bytes(trained)
    return TRAINED


def write_masked(directory: Path, masked: Sequence[Rows]) -> str:
    """Write which rows of each shard search must never return; return the file's name."""
    shards = [np.full(len(rows), number, dtype=np.int32) for number, rows in enumerate(masked)]
    nothing = np.empty(0, dtype=np.int32)
    table = pa.table(
        {
            "shard": np.concatenate([nothing, *shards]),
            "row": np.concatenate([nothing, *(np.sort(rows).astype(np.int32) for rows in masked)]),
        }
    )
    encoding = dict.fromkeys(table.column_names, "DELTA_BINARY_PACKED")
    parquet.write_table(table, directory / MASKED, compression="zstd", use_dictionary=False, column_encoding=encoding)
    return MASKED


def write_description(directory: Path, description: IndexDescription) -> str:
    """Write `index.json`; return the file's name."""
    (directory / DESCRIPTION).write_bytes(render_description(description))
    return DESCRIPTION


def render_description(description: IndexDescription) -> bytes:
    """What `index.json` holds."""
    return (json.dumps(description.to_dict(), indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def read_description(directory: Path) -> IndexDescription:
    """Read and check `index.json`.

    Raises:
        NotAnIndex: there is none, or it has a format that this code does not know.
        CorruptIndex: it is not what `write_description` wrote.
    """
    try:
        return parse_description((directory / DESCRIPTION).read_bytes(), str(directory / DESCRIPTION))
    except FileNotFoundError as error:
        raise NotAnIndex(f"no {DESCRIPTION} in {directory}") from error


def parse_description(data: bytes, what: str) -> IndexDescription:
    """The same, of bytes; `what` names them in errors."""
    try:
        values = json.loads(data)
    except ValueError as error:
        raise CorruptIndex(f"{what} is not JSON: {error}") from error
    found = values.get("format") if isinstance(values, dict) else None
    if found != FORMAT:
        raise NotAnIndex(f"{what}: expected format {FORMAT}, found {found!r}; update Vitrine if it is newer")
    try:
        return IndexDescription.from_dict(values)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptIndex(f"{what}: {error!r}") from error


def as_compared(vectors: Floats, spec: IndexSpec) -> Floats:
    """Vectors as they are compared: of length 1 under cosine, unchanged under euclidean."""
    if spec.metric == "euclidean":
        return np.ascontiguousarray(vectors, dtype=np.float32)
    unit = np.empty(vectors.shape, dtype=np.float32)
    for block in blocks(*vectors.shape):  # the division is done in float64, of which a training sample has too much
        unit[block] = vectors[block] / _norms(vectors[block])[:, None]
    return unit


def bad_rows(vectors: Floats, spec: IndexSpec) -> dict[str, Rows]:
    """The rows that cannot be compared, by reason."""
    finite = np.isfinite(vectors).all(axis=1)
    bad = {"NaN or infinite": ~finite}
    if spec.metric == "cosine":
        bad["all zero"] = finite & ~vectors.any(axis=1)
    else:
        bad["too large for fp16"] = finite & (np.abs(vectors) > FP16_MAX).any(axis=1)
    return {reason: np.flatnonzero(rows) for reason, rows in bad.items() if rows.any()}


def inverted_file(index: Any) -> Any:
    """The inverted file itself, without the rotation in front of it.

    It belongs to `index`, which must outlive it: what `downcast_index` returns owns nothing, and outliving
    its owner is a segmentation fault.
    """
    return faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index


def to_encoded(index: Any, vectors: Floats) -> Floats:
    """Apply the rotation in front of the inverted file, if there is one: N×D to N×encoded dimension."""
    if not isinstance(index, faiss.IndexPreTransform):
        return vectors
    encoded: Floats = rotation(index).apply(vectors)
    return encoded


def rotation(index: Any) -> Any:
    """The PCA in front of an inverted file."""
    return faiss.downcast_VectorTransform(index.chain.at(0))


def load_trained(trained: bytes, spec: IndexSpec) -> Any:
    """Bring a serialized index back and check that it is the one that `spec` describes.

    Raises:
        CorruptIndex: not an index, or another one.
    """
    try:
        with reading(len(trained), spec):
            index = faiss.deserialize_index(np.frombuffer(trained, dtype=np.uint8))
    except (RuntimeError, MemoryError) as error:
        raise CorruptIndex(f"the trained index cannot be read: {error}") from error
    check_matches(index, spec)
    return index


def check_matches(index: Any, spec: IndexSpec) -> None:
    """Raise CorruptIndex unless a faiss index has the parts that `spec` names."""
    inverted = inverted_file(index)
    if not isinstance(inverted, untyped.IndexIVFPQFastScan):
        raise CorruptIndex(f"expected {spec.factory_string()}, found a {type(inverted).__name__}")
    lists: Any = untyped.downcast_InvertedLists(inverted.invlists)
    if not isinstance(lists, untyped.BlockInvertedLists):
        raise CorruptIndex(f"expected lists of blocks, found {type(lists).__name__}")
    # The last ones are sizes that faiss believes without looking, and that reach beyond its memory when wrong.
    found = {
        "dimension": (spec.dimension, index.d),
        "encoded dimension": (spec.encoded_dimension, inverted.d),
        "lists": (spec.nlist, inverted.nlist),
        "trained": (True, inverted.is_trained),
        "lists stored": (spec.nlist, lists.nlist),
        "rows": (index.ntotal, lists.compute_ntotal()),
        "sub-quantizers": (spec.pq_subquantizers, inverted.pq.M),
        "bits": (CODE_BITS, inverted.pq.nbits),
        "block": ((inverted.bbs, inverted.bbs * inverted.M2 // 2), (lists.n_per_block, lists.block_size)),
    }
    wrong = [f"{name}: expected {a}, found {b}" for name, (a, b) in found.items() if a != b]
    if wrong:
        raise CorruptIndex("; ".join(wrong))


@contextmanager
def reading(file_bytes: int, spec: IndexSpec) -> Iterator[None]:
    """While faiss reads a file: allow no vector longer than the file, or than the table it checks for.

    Without the limit a damaged length is allocated, up to 1 TiB. The limit is the process's, hence the lock. faiss
    refuses an index whose table of every code against every list would exceed the limit, though it makes none here.
    """
    table_bytes = 4 * spec.nlist * spec.pq_subquantizers * PQ_CENTROIDS
    with _byte_limit:
        before = faiss.get_deserialization_vector_byte_limit()
        faiss.set_deserialization_vector_byte_limit(file_bytes + table_bytes + 1)
        try:
            yield
        finally:
            faiss.set_deserialization_vector_byte_limit(before)


def blocks(rows: int, dimension: int, block_bytes: int = BLOCK_BYTES) -> Iterator[slice]:
    """Cut rows into slices of at most so many bytes of float32."""
    step = max(1, block_bytes // (4 * dimension))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _norms(vectors: Floats) -> npt.NDArray[np.float64]:
    # In float64: the square of 1e-30 is 0 in float32, and a tiny vector still has a direction.
    norms: npt.NDArray[np.float64] = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    return norms


def _of_dimension(vectors: npt.ArrayLike, spec: IndexSpec) -> Floats:
    array = np.asarray(vectors, dtype=np.float32)
    if array.ndim != 2 or array.shape[1] != spec.dimension:
        raise BadVectors(f"expected vectors of shape (N, {spec.dimension}), found {array.shape}")
    return array


def _refuse_bad_rows(vectors: Floats, spec: IndexSpec, name: Any) -> None:
    found: dict[str, list[int]] = {}
    for block in blocks(*vectors.shape):
        for reason, rows in bad_rows(vectors[block], spec).items():
            found.setdefault(reason, []).extend((rows + block.start).tolist())
    if found:
        raise BadVectors("; ".join(_few(rows, reason, name) for reason, rows in found.items()))


def _few(rows: list[int], what: str, name: Any) -> str:
    some = ", ".join(name(row) for row in rows[:3])
    return f"{len(rows)} {what}: {some}{', …' if len(rows) > 3 else ''}"


def _checked_keys(keys: pa.Table, rows: int) -> pa.ChunkedArray:
    if "image_key" not in keys.column_names:
        raise BadVectors(f"keys have no column image_key, only {keys.column_names}")
    if keys.num_rows != rows:
        raise BadVectors(f"{rows} vectors but {keys.num_rows} keys")
    names = keys["image_key"]
    if not (pa.types.is_string(names.type) or pa.types.is_large_string(names.type)):
        raise BadVectors(f"image_key: expected strings, found {names.type}")
    if names.null_count:
        raise BadVectors(f"{names.null_count} of {rows} image_keys are missing")
    repeated = duplicates(names)
    if repeated:
        raise BadVectors(_few(list(range(len(repeated))), "duplicate image_keys", lambda i: repr(repeated[i])))
    return names


def duplicates(names: pa.ChunkedArray) -> list[str]:
    """The values that are there more than once."""
    if pc.count_distinct(names).as_py() == len(names):
        return []
    counts = pc.value_counts(names)
    repeated = pc.filter(counts.field("values"), pc.greater(counts.field("counts"), 1))
    return [str(name) for name in repeated.to_pylist()]


def _empty_index(trained: bytes | None, spec: IndexSpec) -> Any | None:
    if (trained is None) != (spec.kind == "flat"):
        raise ValueError(f"a {spec.kind} index {'needs' if trained is None else 'has no'} trained quantizers")
    return None if trained is None else load_trained(trained, spec)


def _write_vectors(path: Path, vectors: Floats, spec: IndexSpec, index: Any | None) -> None:
    """Write the vectors as fp16 and add them to `index`, a block at a time."""
    store = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=vectors.shape)
    for block in blocks(*vectors.shape):
        compared = as_compared(vectors[block], spec)
        store[block] = compared
        if index is not None:
            index.add(compared)
    store.flush()

"""The columns of the lake's tables, in the order in which they are written."""

from __future__ import annotations

import pyarrow as pa

UTC_TIME = pa.timestamp("us", tz="UTC")

IMAGES = pa.schema(
    [
        ("image_key", pa.string()),
        ("etag", pa.string()),
        ("size_bytes", pa.int64()),
        ("last_modified", UTC_TIME),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("product_id", pa.string()),
        ("status", pa.string()),  # ok, rejected, unreadable or deleted
        ("reason", pa.string()),  # why it was rejected or could not be read; of one that is ok, what is odd about it
        ("pixels", pa.binary()),  # JPEG, short side at most 256
        ("pixels_elsewhere", pa.bool_()),  # true: an earlier row of the same sha256 holds them
        ("ingested_at", UTC_TIME),
    ]
)

# The next two tables are by content: one row for each sha256 and version, whatever keys bear it.

EMBEDDINGS = pa.schema(
    [
        ("sha256", pa.string()),
        ("look_version", pa.int32()),
        ("embedding", pa.list_(pa.field("element", pa.float32()))),
        ("embedded_at", UTC_TIME),
    ]
)

SCORES = pa.schema(
    [
        ("sha256", pa.string()),
        ("model_version", pa.int32()),
        ("polarity", pa.float32()),  # P(positive), calibrated
        ("logit", pa.float32()),  # its log-odds, which rank where polarities round to 1
        ("label", pa.string()),  # positive or negative
        ("positive_intensity", pa.float32()),
        ("negative_intensity", pa.float32()),
        ("scored_at", UTC_TIME),
    ]
)

STAGE = pa.struct([("name", pa.string()), ("seconds", pa.float64()), ("pictures", pa.int64())])

STAGE_TIME = pa.struct([("name", pa.string()), ("busy_s", pa.float64()), ("waiting_s", pa.float64())])

KIND = pa.struct([("name", pa.string()), ("objects", pa.int64())])

RUNS = pa.schema(
    [
        ("run_id", pa.string()),
        ("parent_run_id", pa.string()),
        ("flow", pa.string()),
        ("status", pa.string()),  # completed, failed, cancelled or crashed
        ("error", pa.string()),
        ("started_at", UTC_TIME),
        ("finished_at", UTC_TIME),
        ("source", pa.string()),
        ("look_version", pa.int32()),
        ("model_version", pa.int32()),
        ("index_version", pa.int32()),
        ("listed", pa.int64()),
        ("unchanged", pa.int64()),
        ("ingested", pa.int64()),
        ("rejected", pa.int64()),
        ("failed", pa.int64()),  # not fetched; listed = unchanged + ingested + rejected + failed
        ("unreadable", pa.int64()),  # of these, the ones that the store refuses: their rows say why
        ("skipped", pa.int64()),  # passed over: no pictures by their name, excluded, …
        ("skipped_by_kind", pa.list_(pa.field("element", KIND))),
        ("deleted", pa.int64()),
        ("unlisted", pa.int64()),  # known pictures in folders that could not be listed: left as they were
        ("live", pa.int64()),
        ("already_embedded", pa.int64()),
        ("embedded", pa.int64()),
        ("already_scored", pa.int64()),
        ("scored", pa.int64()),
        ("indexed", pa.int64()),
        ("published", pa.bool_()),
        ("same_product_at_1", pa.float64()),  # how often the nearest picture shows the query's own product
        ("same_product_at_5", pa.float64()),
        ("pictures_per_second", pa.float64()),
        ("stages", pa.list_(pa.field("element", STAGE))),
        ("stage_times", pa.list_(pa.field("element", STAGE_TIME))),
        ("bottleneck", pa.string()),  # the name of the stage that held up the others
        ("arithmetic", pa.string()),  # in which numbers the network scored
    ]
)

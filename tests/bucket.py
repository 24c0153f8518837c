"""A bucket on the S3 server that the environment names."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def fresh_bucket() -> Iterator[str]:
    """The URI of a new bucket; emptied and removed afterwards."""
    import boto3

    client = boto3.client("s3")
    name = f"vitrine-test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    yield f"s3://{name}"
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
        for found in page.get("Contents", []):
            client.delete_object(Bucket=name, Key=found["Key"])
    client.delete_bucket(Bucket=name)

"""What obstore and the file system raise, as the lake's own errors: one line each that says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore import exceptions

from lake.errors import LakeError, ObjectExists, ObjectNotFound, StoreUnavailable

_CAUSES = {
    "NoSuchBucket": "the bucket of {uri} does not exist: create it, or correct the URI",
    "External AWS credential provider": "no usable AWS credentials for {uri}: {text}",
    "Permission denied|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|Unauthenticated|os error 13": (
        "access to {where} was denied: check the credentials and their permissions"
    ),
    "Read-only file system|os error 30": "{where} can't be written: the file system is read-only",
    "No space left|os error 28": "{where} can't be written: no space left on the device",
    "Not a directory|os error 20": "{where} can't be written: a part of its path is a file",
}


@contextmanager
def translated(uri: str, path: str) -> Iterator[None]:
    """Raise the lake's errors for whatever goes wrong at this path below the root.

    ObjectExists, ObjectNotFound; LakeError where trying again would not help, else StoreUnavailable.
    """
    where = f"{uri}/{path}" if path else uri
    try:
        yield
    except exceptions.AlreadyExistsError as error:
        raise ObjectExists(f"{where} exists already") from error
    except (exceptions.NotFoundError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        if "NoSuchBucket" in str(error):
            raise LakeError(_CAUSES["NoSuchBucket"].format(uri=uri)) from error
        raise ObjectNotFound(f"{where} does not exist") from error
    except (exceptions.PermissionDeniedError, PermissionError) as error:
        raise LakeError(
            f"access to {where} was denied: check the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID) and their "
            "permissions, or the directory's"
        ) from error
    except (exceptions.BaseError, OSError) as error:
        raise _by_cause(where, uri, str(error)) from error


def _by_cause(where: str, uri: str, text: str) -> LakeError:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = lines[0][:300] if lines else "no reason given"
    for cause, message in _CAUSES.items():
        if re.search(cause, text):
            return LakeError(message.format(where=where, uri=uri, text=first))
    return StoreUnavailable(f"{where} did not answer: {first}")

"""Whether a store refuses one object, in earnest, or has only failed to hand it out this time."""

from __future__ import annotations

import errno
import re

from lake.errors import LakeError, ObjectNotFound, ObjectUnreadable

_ANSWER = re.compile(r"status code: (\d{3})[^<]*(?:<.*?<Code>([\w.]+)</Code>)?", re.DOTALL)
_ARCHIVED = frozenset({"InvalidObjectState", "ObjectNotInActiveTierError"})
_LATER = frozenset({408, 409, 412, 425, 429})
# Whatever the status: these are said of whoever asks, whatever is asked for, or pass by themselves.
_NOT_OF_THE_OBJECT = re.compile(
    "Account|AuthorizationHeader|Expired|InvalidAccessKey|InvalidSecurity|InvalidToken|NoSuchBucket|NotSignedUp|"
    "PermanentRedirect|RequestTime|SignatureDoesNotMatch|SlowDown|Throttling|TokenRefresh"
)
_FILE_ERRORS = frozenset({errno.EIO, errno.ENXIO, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.ENODATA})


def refusal(where: str, error: Exception, said: str = "") -> LakeError | None:
    """The error where this one object won't be handed out, today or tomorrow; None where it says less than that.

    `error` is the file system's, obstore's or boto3's; `said` what the server says, for the message.
    """
    if isinstance(error, PermissionError):
        return _denied(where, "", "")
    if isinstance(error, OSError) and error.errno in _FILE_ERRORS:
        return ObjectUnreadable(f"{where} can't be read: {error.strerror}", f"can't be read: {error.strerror}")
    status, code = _answer(error)
    if status == 404 and not code.startswith("NoSuchBucket"):
        return ObjectNotFound(f"{where} does not exist")
    if not 400 <= status < 500 or status in _LATER or _NOT_OF_THE_OBJECT.search(code):
        return None
    return _refused(where, status, code, said)


def _answer(error: Exception) -> tuple[int, str]:
    """The status and the error code that a server answered with; 0 where it did not answer."""
    answer = getattr(error, "response", None)  # boto3's
    if isinstance(answer, dict):
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return int(status), str(answer.get("Error", {}).get("Code", ""))
    found = _ANSWER.search(str(error))
    return (int(found[1]), found[2] or "") if found else (0, "")


def _refused(where: str, status: int, code: str, said: str) -> ObjectUnreadable:
    if code in _ARCHIVED:
        return ObjectUnreadable(f"{where} is archived ({code}): restore it", f"archived ({code}): restore it")
    if status in (401, 403):
        return _denied(where, code, said)
    answer = f"{status} {code}".strip()
    return ObjectUnreadable(f"{where} is refused by the server: {answer}{said}", f"refused by the server: {answer}")


def _denied(where: str, code: str, said: str) -> ObjectUnreadable:
    return ObjectUnreadable(
        f"access to {where} was denied: check the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID) and their permissions, "
        f"or the directory's{said}",
        "access denied" + (f" ({code})" if code else ""),
    )

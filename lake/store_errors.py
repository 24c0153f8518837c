"""What obstore, delta-rs and the file system raise, as the lake's own errors: one line each that says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore import exceptions

from lake.errors import LakeError, ObjectExists, ObjectNotFound, StoreUnavailable
from lake.refusals import refusal

LONGEST = 300  # characters of what others say
_COLOURS = re.compile(r"\x1b\[[0-9;]*m|↳")
_BACKTRACE = re.compile(r"\s*(\d+: |at \S+:\d+|stack backtrace|Debug source)")
_CAUSES = {
    "NoSuchBucket": "the bucket of {uri} does not exist: create it, or correct the URI",
    "External AWS credential provider": "no usable AWS credentials for {uri}: {why}",
    "ExpiredToken|TokenRefreshRequired|ExpiredCredentials": (
        "the credentials for {uri} have expired ({why}): get new ones, as by `aws sso login`, and run this again"
    ),
    "RequestTimeTooSkewed": "this machine's clock is wrong, so {uri} refuses its requests ({why}): set it",
    r"[Cc]ertificate|UnknownIssuer|CERTIFICATE_VERIFY|SSL peer": (
        "the certificate of the server of {uri} is not trusted ({why}): name its CA's file in AWS_CA_BUNDLE"
    ),
    "AuthorizationHeaderMalformed|PermanentRedirect": "{uri} lies in another region: set AWS_REGION{reason}",
    r"Permission denied|AccessDenied|InvalidAccessKey|SignatureDoesNotMatch|Unauthenticated|os error 13\b|Forbidden|"
    "InvalidToken|InvalidSecurity|NotSignedUp|AccountProblem": (
        "access to {where} was denied: check the credentials and their permissions{reason}"
    ),
    "Encountered object with invalid path": (
        "{where} holds a file whose name its readers can't spell: remove that file ({why})"
    ),
    r"Read-only file system|os error 30\b": "{where} can't be written: the file system is read-only",
    r"No space left|os error 28\b": "{where} can't be written: no space left on the device",
    r"quota exceeded|os error 122\b": "{where} can't be written: the disk quota is used up",
    r"File too large|os error 27\b": "{where} can't be written: the file would be larger than is allowed",
    r"Not a directory|os error 20\b": "{where} can't be written: a part of its path is a file",
}


@contextmanager
def translated(uri: str, path: str) -> Iterator[None]:
    """Raise the lake's errors for whatever goes wrong at this path below the root.

    ObjectExists, ObjectNotFound; LakeError where trying again would not help, else StoreUnavailable.
    """
    where = f"{uri}/{path}" if path else uri
    try:
        yield
    except (exceptions.AlreadyExistsError, FileExistsError) as error:
        raise ObjectExists(f"{where} exists already") from error
    except (exceptions.NotFoundError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        if "NoSuchBucket" in str(error):
            raise LakeError(_CAUSES["NoSuchBucket"].format(uri=uri)) from error
        raise ObjectNotFound(f"{where} does not exist") from error
    except (exceptions.BaseError, OSError) as error:
        raise refusal(where, error, _answered(str(error))) or by_cause(
            error, uri, where, f"{where} did not answer"
        ) from error
    except Exception as error:
        if not type(error).__module__.startswith("botocore."):  # imported only where it is used
            raise
        raise refusal(where, error, _answered(str(error))) or by_cause(
            error, uri, where, f"{where} did not answer"
        ) from error


def by_cause(error: Exception, uri: str, where: str, otherwise: str) -> LakeError:
    """The error by what caused it; where that is not known it is a StoreUnavailable that begins with `otherwise`."""
    text = str(error)
    for cause, message in _CAUSES.items():
        if re.search(cause, text):
            return LakeError(message.format(where=where, uri=uri, why=one_line(text), reason=_answered(text)))
    return StoreUnavailable(f"{otherwise}: {one_line(text)}")


def one_line(text: str) -> str:
    """What others say in many lines, with colours, XML or a backtrace, in one line of what matters."""
    if server := _server_said(text):
        return server
    lines = []
    for line in _COLOURS.sub("", text).splitlines():
        if _BACKTRACE.match(line):
            break
        lines.append(" ".join(line.split()))
    joined = ": ".join(line.rstrip(":") for line in lines if line)
    return joined[:LONGEST] or "no reason given"


def _server_said(text: str) -> str:
    """What an S3 server's XML says, if there is any."""
    found = (re.search(rf"<{tag}>([^<]*)</{tag}>", text) for tag in ("Code", "Message"))
    return ": ".join(" ".join(each[1].split()) for each in found if each)[:LONGEST]


def _answered(text: str) -> str:
    server = _server_said(text)
    return f" (the server says {server})" if server else ""

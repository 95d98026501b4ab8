"""Sort the exceptions of clients by what they say about the object and the root.

s3fs, gcsfs and obstore raise a dozen types for the same few answers, and each may stand behind another filesystem. None
of them is imported here: their exceptions are known by what they carry.
"""

import json
import re
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any


class Failure(Enum):
    """What the root answered, as far as the caller's reaction differs."""

    ALREADY_EXISTS = auto()
    """A put-if-absent met an object of that name."""
    NO_OBJECT = auto()
    """The root is there, the object is not."""
    NO_ROOT = auto()
    """The bucket is not there."""
    NOTHING = auto()
    """The object or the bucket is not there; another question must tell which."""
    PERMISSION_DENIED = auto()
    """The credentials are missing, wrong, or not enough."""
    EMPTY_RANGE = auto()
    """A range that starts with the first byte holds none: the object is empty."""
    TRANSIENT = auto()
    """A connection broke, or the service was busy, slow or in trouble; the request may have been applied."""
    UNREACHABLE = auto()
    """No connection could be made."""
    UNSUPPORTED = auto()
    """The service does not know something that the request asks for: a condition, or a checksum."""
    UNKNOWN = auto()
    """Anything else. It says nothing about the object."""


_BAD_REQUEST, _CONFLICT, _LENGTH_REQUIRED = 400, 409, 411
_BY_STATUS = {
    # Some servers answer a put on a taken name as if it were a get on a condition.
    304: Failure.ALREADY_EXISTS,
    401: Failure.PERMISSION_DENIED,
    403: Failure.PERMISSION_DENIED,
    404: Failure.NOTHING,
    408: Failure.TRANSIENT,
    409: Failure.TRANSIENT,
    411: Failure.UNSUPPORTED,
    412: Failure.ALREADY_EXISTS,
    416: Failure.EMPTY_RANGE,
    429: Failure.TRANSIENT,
    500: Failure.TRANSIENT,
    501: Failure.UNSUPPORTED,
    502: Failure.TRANSIENT,
    503: Failure.TRANSIENT,
    504: Failure.TRANSIENT,
}
_BY_S3_CODE = {
    "NoSuchKey": Failure.NO_OBJECT,
    "NoSuchBucket": Failure.NO_ROOT,
    "PreconditionFailed": Failure.ALREADY_EXISTS,
    "InvalidRange": Failure.EMPTY_RANGE,
    "NotImplemented": Failure.UNSUPPORTED,
    # Refusals that come with status 400.
    "ExpiredToken": Failure.PERMISSION_DENIED,
    "ExpiredTokenException": Failure.PERMISSION_DENIED,
    "InvalidAccessKeyId": Failure.PERMISSION_DENIED,
    "InvalidSecurity": Failure.PERMISSION_DENIED,
    "InvalidToken": Failure.PERMISSION_DENIED,
    "RequestExpired": Failure.PERMISSION_DENIED,
    "SignatureDoesNotMatch": Failure.PERMISSION_DENIED,
    "TokenRefreshRequired": Failure.PERMISSION_DENIED,
    # What was damaged on its way there, or stopped coming, has status 400.
    "BadDigest": Failure.TRANSIENT,
    "IncompleteBody": Failure.TRANSIENT,
    "RequestTimeout": Failure.TRANSIENT,
    "XAmzContentSHA256Mismatch": Failure.TRANSIENT,
    # An attempt that was repeated may have completed the upload before: its status 404 says nothing about the object.
    "NoSuchUpload": Failure.TRANSIENT,
}
_OUTDATED = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
_CHECKSUMS = re.compile(r"checksum|trailer|x-amz-sdk|content-length", re.IGNORECASE)
_BOTOCORE_CREDENTIAL_ERRORS = {
    "CredentialRetrievalError",
    "NoAuthTokenError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "SSOTokenLoadError",
    "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
}
_BY_OBSTORE_TYPE = {
    "AlreadyExistsError": Failure.ALREADY_EXISTS,
    "NotFoundError": Failure.NOTHING,
    "PermissionDeniedError": Failure.PERMISSION_DENIED,
    "UnauthenticatedError": Failure.PERMISSION_DENIED,
}
_SHOWN = 100
"""How much of an answer that is none is quoted."""
_CODE_IN_TEXT = re.compile(r"<Code>(\w+)</Code>")
_STATUS_IN_TEXT = re.compile(r"status code: (\d{3})\b")
# Classes of botocore, aiohttp, requests, urllib3, google.auth, gcsfs and Python, any of which may be a base.
_UNREACHABLE = {
    "ClientConnectorError",
    "ConnectTimeoutError",
    "ConnectionRefusedError",
    "ConnectionTimeoutError",
    "EndpointConnectionError",
    "ProxyConnectionError",
    "SSLError",
    "gaierror",
}
_TRANSIENT = {
    "ChecksumError",
    "ChunkedEncodingError",
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectionError",
    "FlexibleChecksumError",
    "HTTPClientError",
    "IncompleteRead",
    "JSONDecodeError",
    "ResponseParserError",
    "TimeoutError",
    "TransportError",
}


def failure_of(error: Exception) -> Failure:
    """Sort an exception of any filesystem."""
    return (
        _s3_failure(error)
        or _gcs_failure(error)
        or _obstore_failure(error)
        or _http_failure(error)
        or _builtin_failure(error)
    )


def is_conflict(error: Exception) -> bool:
    """Whether the status is 409: another put of that name is under way, or, for some servers, has been."""
    return _s3_status(error) == _CONFLICT or (
        type(error).__module__.startswith("gcsfs") and _gcs_status(error) == _CONFLICT
    )


def is_outdated(error: object) -> bool:
    """Whether S3 does not take credentials that may have been right before."""
    return isinstance(error, Exception) and _s3_answer(error).get("Error", {}).get("Code") in _OUTDATED


def is_about_checksums(error: Exception) -> bool:
    """Whether a service that does not know something has checksums in mind: it says so, or misses a length."""
    return bool(_CHECKSUMS.search(str(error))) or _s3_status(error) == _LENGTH_REQUIRED


def described(error: Exception) -> str:
    """Return what an exception says, and what came where an answer was not of the form that it should have."""
    if isinstance(error, json.JSONDecodeError):
        return f"the answer is no JSON but {error.doc[:_SHOWN]!r}"
    headers = _s3_answer(error).get("ResponseMetadata", {}).get("HTTPHeaders", {})
    is_page = str(headers.get("content-type", "")).startswith("text/")
    return f"{error} (the answer is {headers['content-type']})" if is_page else str(error)


def _s3_answer(error: Exception) -> Mapping[str, Any]:
    # s3fs makes builtin exceptions of botocore's, some of them misleading, and keeps the original as the cause.
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return response if isinstance(response, Mapping) else {}


def _s3_status(error: Exception) -> object:
    return _s3_answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode")


def _gcs_status(error: Exception) -> int:
    return int(getattr(error, "code", None) or 0)


def _s3_failure(error: Exception) -> Failure | None:
    if type(error).__name__ in _BOTOCORE_CREDENTIAL_ERRORS:
        return Failure.PERMISSION_DENIED
    response = _s3_answer(error)
    if "Error" not in response:
        return None
    code = str(response["Error"].get("Code"))
    status = _s3_status(error)
    found = _BY_S3_CODE.get(code) or (_BY_STATUS.get(status) if isinstance(status, int) else None)
    return found or (Failure.UNSUPPORTED if status == _BAD_REQUEST and is_about_checksums(error) else Failure.UNKNOWN)


def _gcs_failure(error: Exception) -> Failure | None:
    module = type(error).__module__
    if module == "google.auth.exceptions":
        return Failure.TRANSIENT if type(error).__name__ == "TransportError" else Failure.PERMISSION_DENIED
    if module.startswith("gcsfs") and hasattr(error, "code"):
        return _BY_STATUS.get(_gcs_status(error), Failure.UNKNOWN)
    # gcsfs tells a refusal by the first word of a plain OSError.
    return Failure.PERMISSION_DENIED if type(error) is OSError and str(error).startswith("Forbidden") else None


def _obstore_failure(error: Exception) -> Failure | None:
    if not type(error).__module__.startswith("obstore"):
        return None
    # It has a type of its own for what it knows, and one for all else, whose text tells the code and the status.
    if (found := _BY_OBSTORE_TYPE.get(type(error).__name__)) is not None:
        return found
    code, status = _CODE_IN_TEXT.search(str(error)), _STATUS_IN_TEXT.search(str(error))
    by_status = _BY_STATUS.get(int(status[1]), Failure.UNKNOWN) if status else Failure.UNKNOWN
    return _BY_S3_CODE.get(code[1], by_status) if code else by_status


def _http_failure(error: Exception) -> Failure | None:
    # What aiohttp makes of a status of which the client made nothing better.
    status = getattr(error, "status", None)
    return _BY_STATUS.get(status, Failure.UNKNOWN) if isinstance(status, int) else None


def _builtin_failure(error: Exception) -> Failure:
    if isinstance(error, FileExistsError):
        return Failure.ALREADY_EXISTS
    if isinstance(error, FileNotFoundError | IsADirectoryError):
        return Failure.NOTHING
    if isinstance(error, PermissionError):
        return Failure.PERMISSION_DENIED
    return _broken_connection(error)


def _broken_connection(error: Exception) -> Failure:
    names = {base.__name__ for base in type(_cause_in_aiobotocore(error)).__mro__}
    if names & _UNREACHABLE:
        return Failure.UNREACHABLE
    return Failure.TRANSIENT if names & _TRANSIENT else Failure.UNKNOWN


def _cause_in_aiobotocore(error: Exception) -> Exception:
    """Return what is behind an error that aiobotocore raises for connections that were not made and for broken ones."""
    if type(error).__name__ == "EndpointConnectionError" and isinstance(
        kept := getattr(error, "kwargs", None), Mapping
    ):
        cause = kept.get("error")
        return cause if isinstance(cause, Exception) else error
    return error

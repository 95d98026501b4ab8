"""Ways to the objects of each kind of root that do not lead through metaxy_fs, nor through the client that it uses."""

import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from metaxy_fs.storage import MemoryStorage
from tests.servers import ObjectServer
from tests.support.stepped_storage import Bucket


class Files:
    """The files below a directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, path: str) -> bytes | None:
        file = self._root / path
        return file.read_bytes() if file.is_file() else None

    def put(self, path: str, data: bytes) -> None:
        (self._root / path).parent.mkdir(parents=True, exist_ok=True)
        (self._root / path).write_bytes(data)


class Dictionary:
    """The dictionary of a storage in memory."""

    def __init__(self, storage: MemoryStorage) -> None:
        self._objects: MutableMapping[str, Any] = storage._objects
        storage.put("example", b"")
        self._example = self._objects.pop("example")

    def get(self, path: str) -> bytes | None:
        return self._objects[path].data if path in self._objects else None

    def put(self, path: str, data: bytes) -> None:
        self._objects[path] = self._example._replace(data=data)


class Shared:
    """What the stepped storages of several processes share."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def get(self, path: str) -> bytes | None:
        return self._bucket.objects[path].data if path in self._bucket.objects else None

    def put(self, path: str, data: bytes) -> None:
        assert self._bucket.put(path, data)


class FsspecMemory:
    """The dictionary of fsspec's filesystem in memory."""

    def __init__(self, root: str) -> None:
        self._root = root

    def get(self, path: str) -> bytes | None:
        file = MemoryFileSystem.store.get(f"{self._root}/{path}")
        return None if file is None else bytes(file.getvalue())

    def put(self, path: str, data: bytes) -> None:
        name = f"{self._root}/{path}"
        MemoryFileSystem.store[name] = MemoryFile(MemoryFileSystem(), name, data)


class BotoObjects:
    """A bucket of S3, by way of boto3."""

    def __init__(self, server: ObjectServer, bucket: str, prefix: str) -> None:
        self._place = {"Bucket": bucket}
        self._prefix = prefix
        self._client = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
            config=Config(read_timeout=600, retries={"total_max_attempts": 1}),
        )

    def get(self, path: str) -> bytes | None:
        try:
            return bytes(self._client.get_object(**self._place, Key=self._prefix + path)["Body"].read())
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchKey":
                return None
            raise

    def put(self, path: str, data: bytes) -> None:
        self._client.put_object(**self._place, Key=self._prefix + path, Body=data)


class GCSObjects:
    """A bucket of GCS, by way of plain HTTP."""

    def __init__(self, server: ObjectServer, bucket: str, prefix: str) -> None:
        self._objects = f"storage/v1/b/{bucket}/o"
        self._endpoint = server.endpoint
        self._prefix = prefix

    def get(self, path: str) -> bytes | None:
        name = quote(self._prefix + path, safe="")
        try:
            with urlopen(f"{self._endpoint}/{self._objects}/{name}?alt=media") as answer:  # noqa: S310  # a server of the tests
                return bytes(answer.read())
        except HTTPError as error:
            if error.code == 404:
                return None
            raise

    def put(self, path: str, data: bytes) -> None:
        # The emulator cannot take an empty object by itself, but as a part of a message.
        about = json.dumps({"name": self._prefix + path}).encode()
        parts = [b"Content-Type: application/json\r\n\r\n" + about, b"Content-Type: text/plain\r\n\r\n" + data]
        body = b"".join(b"--line\r\n" + part + b"\r\n" for part in parts) + b"--line--\r\n"
        url = f"{self._endpoint}/upload/{self._objects}?uploadType=multipart"
        headers = {"Content-Type": "multipart/related; boundary=line"}
        with urlopen(Request(url, data=body, headers=headers, method="POST")):  # noqa: S310  # likewise
            pass

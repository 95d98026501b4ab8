"""Requests are logged as they are made: which objects, how many bytes, how it ended."""

import logging
import pickle

import pytest

from metaxy_fs.errors import ObjectNotFoundError
from metaxy_fs.storage import ObjectInfo, ObjectRange, open_storage
from metaxy_fs.storage.logged import LoggedStorage, logged
from metaxy_fs.storage.memory import MemoryStorage

REQUESTS = {
    "put": (lambda storage: storage.put("a/c", b"123"), "memory: put a/c: 3 bytes"),
    "get": (lambda storage: storage.get("a/b"), "memory: get a/b: 2 bytes"),
    "get_optional": (lambda storage: storage.get_optional(["a/b", "x"], max_bytes=9), "memory: get a/b, x: 2 bytes"),
    "get_many": (lambda storage: storage.get_many([ObjectInfo("a/b", 2)]), "memory: get a/b: 2 bytes"),
    "get_ranges": (lambda storage: storage.get_ranges([ObjectRange("a/b", 1, 2)]), "memory: get a/b[1:2]: 1 bytes"),
    "list": (lambda storage: storage.list("a"), "memory: list a/: 1 found"),
    "list_directories": (lambda storage: storage.list_directories(""), "memory: list directories of /: 1 found"),
    "list_temporaries": (lambda storage: storage.list_temporaries(""), "memory: list temporary files of /: 0 found"),
    "delete": (lambda storage: storage.delete("a/b"), "memory: delete a/b: done"),
    "now": (lambda storage: storage.now(probe="_clock/1"), "memory: ask for the time by _clock/1: done"),
    "copy_from": (lambda storage: storage.copy_from(storage, "a/b", probe="a/b"), "memory: copy a/b: done"),
}


@pytest.fixture
def storage():
    inner = MemoryStorage()
    inner.put("a/b", b"12")
    return logged(inner)


@pytest.mark.parametrize("verb", REQUESTS)
def test_each_request_is_one_line(storage, caplog, verb):
    request, line = REQUESTS[verb]
    with caplog.at_level(logging.DEBUG, "metaxy_fs"):
        request(storage)
    [message] = caplog.messages
    assert message.startswith(f"{line}, ")
    assert message.endswith(" s")


def test_nothing_is_logged_at_info(storage, caplog):
    with caplog.at_level(logging.INFO, "metaxy_fs"):
        for request, _ in REQUESTS.values():
            request(storage)
    assert caplog.messages == []


def test_a_failure_says_of_which_kind_it_is(storage, caplog):
    with caplog.at_level(logging.DEBUG, "metaxy_fs"), pytest.raises(ObjectNotFoundError):
        storage.get("a/x")
    assert "get a/x: failed (ObjectNotFoundError)" in caplog.text


def test_a_batch_names_ten_objects(storage, caplog):
    with caplog.at_level(logging.DEBUG, "metaxy_fs"):
        storage.get_optional([f"n{number}" for number in range(300)], max_bytes=1)
    assert "n9 and 290 more: 0 bytes" in caplog.text
    assert "n10" not in caplog.text


def test_names_that_cannot_be_printed_are_escaped(storage, caplog):
    with caplog.at_level(logging.DEBUG, "metaxy_fs"):
        storage.get_optional(["a\n\x1b[31m"], max_bytes=1)
    assert "\x1b" not in caplog.messages[0]
    assert "\n" not in caplog.messages[0]


def test_credentials_are_not_logged(caplog, tmp_path):
    options = {"s3": {"key": "AKIASECRET", "secret": "hunter22", "endpoint_url": "http://127.0.0.1:9"}}
    storage = logged(open_storage("s3://user-bucket/prefix", storage_options=options["s3"]))
    assert "hunter22" not in repr(storage)
    with caplog.at_level(logging.DEBUG, "metaxy_fs"):
        logged(open_storage(tmp_path)).list("")
    assert "hunter22" not in caplog.text


def test_it_is_wrapped_once_and_pickled(tmp_path):
    storage = logged(open_storage(tmp_path))
    assert logged(storage) is storage
    again = pickle.loads(pickle.dumps(storage))  # noqa: S301  # our own
    assert isinstance(again, LoggedStorage)
    assert repr(again) == repr(open_storage(tmp_path))

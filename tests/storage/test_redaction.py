"""No credential gets into anything that a person or a log reads."""

import pytest

from metaxy_fs.storage.redaction import conceal, redact, reveals, secrets_of


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("sftp://me:pw@host/x", "sftp://host/x"),
        ("sftp://me@host/x", "sftp://host/x"),
        ("sftp://me:p@w@host/x", "sftp://host/x"),
        ("https://host/x?sig=abc&v=1", "https://host/x?sig=***&v=1"),
        (
            "https://host/x?X-Amz-Signature=abc&X-Amz-Security-Token=def",
            "https://host/x?X-Amz-Signature=***&X-Amz-Security-Token=***",
        ),
        ("simplecache::sftp://me:pw@host/x", "simplecache::sftp://host/x"),
        ("http://host/b?max-keys=7&prefix=a", "http://host/b?max-keys=7&prefix=a"),
        ("/data/x", "/data/x"),
        ("s3:/me:pw@bucket/x", "s3:/bucket/x"),
        ("s3:\\me:pw@bucket\\x", "s3:\\bucket\\x"),
        ("/cwd/s3:/me:pw@bucket/x", "/cwd/s3:/bucket/x"),
        ("s3://me:p/w@bucket/x", "s3://bucket/x"),
        ("gcs:/me:p/w/@bucket/x", "gcs:/bucket/x"),
        ("s3://me:123/w@bucket/x", "s3://bucket/x"),
        ("simplecache::s3://me:p/w@bucket/x", "simplecache::s3://bucket/x"),
        ("sftp://me:p/w@host/x", "sftp://host/x"),
        ("sftp://me:pw@host/x@y", "sftp://host/x@y"),
        ("http://host:9000/bucket/x@y", "http://host:9000/bucket/x@y"),
        ("no answer from s3://me:p/w@bucket", "no answer from s3://bucket"),
        ("abfs://container@account.host/x", "abfs://container@account.host/x"),
        ("abfs://me:pw@host/x", "abfs://host/x"),
        ("abfss://a@me:pw@host/x", "abfss://host/x"),
        ("s3://arn:aws:s3:eu-west-1:1234:accesspoint/name/a@b", "s3://arn:aws:s3:eu-west-1:1234:accesspoint/name/a@b"),
    ],
)
def test_redact_drops_credentials_and_nothing_else(url, expected):
    assert redact(url) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"secret": "hunter22"},
        {"token": {"private_key": "hunter22", "type": "service_account"}},
        {"client_kwargs": {"aws_session_token": "hunter22"}},
        {"client_kwargs": {"headers": [{"Authorization": "hunter22"}]}},
        {"account_key": b"hunter22"},
        {"connection_string": "hunter22"},
        {"config_kwargs": {"proxies": {"https": "http://me:hunter22@proxy"}}},
        {"endpoint_url": "https://host?token=hunter22"},
    ],
)
def test_secrets_are_found_wherever_clients_take_them(options):
    assert "hunter22" in secrets_of("s3://bucket", options)


def test_all_that_is_below_a_name_of_a_secret_is_one():
    options = {"token": {"type": "plain-name", "more": ["hunter22", {"deep": b"hunter33"}]}}

    assert {"plain-name", "hunter22", "hunter33"} <= secrets_of("gs://bucket", options)


def test_secrets_of_a_url_are_found_in_both_forms():
    found = secrets_of("sftp://me:p%40ssword@host?password=other%2Fword", {})

    assert {"p%40ssword", "p@ssword", "other/word"} <= found


@pytest.mark.parametrize("url", ["s3:/me:hunter/22@bucket", "s3://me:hunter/22@bucket/x"])
def test_secrets_of_odd_urls_are_found(url):
    assert "hunter/22" in secrets_of(url, {})


def test_what_is_no_secret_may_be_said():
    options = {"token": "anon", "anon": True, "endpoint_url": "http://host:9000", "key": "abc", "region": "eu-west-1"}

    assert secrets_of("s3://bucket/prefix", options) == frozenset()


def test_conceal_hides_secrets_as_they_are_and_as_they_look_in_urls():
    secrets = secrets_of("s3://b", {"secret": "a/b+c", "key": "a/b+c-longer"})

    assert conceal("a/b+c, a%2Fb%2Bc and a/b+c-longer", secrets) == "***, *** and ***"


def test_secret_anywhere_in_a_chain_of_errors_is_noticed():
    secrets = frozenset({"hunter22"})
    inner, outer = ValueError("hunter22"), ValueError("fine")
    outer.__cause__ = inner
    inner.__context__ = outer

    assert reveals(outer, secrets)
    assert not reveals(ValueError("fine"), secrets)

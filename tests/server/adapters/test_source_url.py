"""A URL has one form; every other way to write it is refused, and so are its tricks."""

from __future__ import annotations

import pytest

from lorry_server.adapters.sources.source_url import SourceUrl, parse_prefix, parse_url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("s3://bucket/adapters/sql", SourceUrl("s3", "bucket/adapters/sql")),
        ("s3://bucket/adapters/sql/", SourceUrl("s3", "bucket/adapters/sql")),
        ("hf://org/name", SourceUrl("hf", "org/name")),
        ("hf://org/name@v1.0", SourceUrl("hf", "org/name@v1.0")),
        ("https://host.org:8443/a/b", SourceUrl("https", "host.org:8443/a/b")),
        ("file:///data/sql", SourceUrl("file", "/data/sql")),
        ("memory://sql", SourceUrl("memory", "sql")),
    ],
)
def test_a_plain_url_is_taken(text: str, url: SourceUrl) -> None:
    assert parse_url(text) == url


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("S3://bucket/sql", "lower case"),
        ("s3 ://bucket/sql", "lower case"),
        ("://bucket", "lower case"),
        ("s3:/bucket", "it is no URL"),
        ("s3://", "names no folder"),
        ("s3://bucket/../secret", "'.', '..' and empty parts"),
        ("s3://bucket/./x", "'.', '..' and empty parts"),
        ("s3://bucket//x", "'.', '..' and empty parts"),
        ("s3:///x", "'.', '..' and empty parts"),
        ("s3://bucket/%2e%2e/x", "letters other than"),
        ("s3://bucket/x%2f..", "letters other than"),
        ("https://host/x?y=1", "letters other than"),
        ("https://host/x#y", "letters other than"),
        ("https://host/*", "letters other than"),
        ("https://host\\@evil/x", "letters other than"),
        ("s3://bucket/a b", "letters other than"),
        ("s3://bucket/a\nb", "letters other than"),
        ("s3://bucket/a\0b", "letters other than"),
        ("s3://bucket/\uff0e\uff0e/x", "letters other than"),
        ("s3://bucket/x\u2215y", "letters other than"),
        ("s3://b\u0430d/x", "letters other than"),
        ("zip://x::https://evil/y", "letters other than"),
        ("simplecache::s3://bucket/x", "lower case"),
        ("https://user@host/x", "no user or password"),
        ("https://user:password@host/x", "no user or password"),
        ("s3://key@bucket/x", "no user or password"),
        ("file://host/x", "three slashes"),
        ("file:///data/../etc", "'.', '..' and empty parts"),
        ("local:///etc", "write file://"),
        ("s3://" + "x" * 3000, "longer than"),
    ],
)
def test_any_other_form_is_refused_with_its_reason(text: str, words: str) -> None:
    with pytest.raises(ValueError, match="is not allowed") as caught:
        parse_url(text)

    assert words in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["http://", "https://", "file://"])
def test_a_prefix_of_everything_is_taken_only_where_that_is_bounded(text: str) -> None:
    with pytest.raises(ValueError, match="name a"):
        parse_prefix(text)
    assert parse_prefix("hf://") == SourceUrl("hf", "")
    assert parse_prefix("s3://") == SourceUrl("s3", "")


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("s3://bucket/adapters/sql", "s3://bucket/adapters/"),
        ("s3://bucket/adapters/sql", "s3://bucket/adapters"),
        ("s3://bucket/adapters", "s3://bucket/adapters/"),
        ("s3://bucket/x", "s3://"),
        ("hf://org/name", "hf://org/"),
        ("hf://org/name@v2", "hf://org/name"),
        ("hf://org/name@refs/pr/1", "hf://org/name"),
    ],
)
def test_what_is_below_a_prefix_is_allowed(text: str, prefix: str) -> None:
    assert parse_url(text).is_below(parse_prefix(prefix))


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("s3://bucket/adapters-of-others/x", "s3://bucket/adapters"),
        ("s3://bucket-of-others/x", "s3://bucket/"),
        ("s3://bucket", "s3://bucket/adapters"),
        ("https://good.org.evil.org/x", "https://good.org"),
        ("https://good.org:81/x", "https://good.org"),
        ("http://good.org/x", "https://good.org/"),
        ("https://GOOD.org/x", "https://good.org/"),
        ("hf://organisation/x", "hf://org"),
        ("hf://org/name-2@v1", "hf://org/name"),
        ("hf://org/name", "hf://org/name@v1"),
    ],
)
def test_what_only_looks_like_it_is_not(text: str, prefix: str) -> None:
    assert not parse_url(text).is_below(parse_prefix(prefix))

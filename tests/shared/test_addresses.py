"""Which addresses are outside, and which URLs may be given at all."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from shared.exceptions import UnusableUrlError
from shared.models.addresses import is_outside, parse_networks
from shared.models.webhook_urls import WebhookUrl


INSIDE = (
    "0.0.0.0",  # noqa: S104 - an address like the others
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.255",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "233.252.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::7f00:1",
    "100::1",
    "2001::1",
    "2001:0:7f00:1::",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
)

OUTSIDE = ("8.8.8.8", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808")


@pytest.mark.parametrize("address", INSIDE)
def test_inside(address: str) -> None:
    assert not is_outside(ip_address(address))


@pytest.mark.parametrize("address", OUTSIDE)
def test_outside(address: str) -> None:
    assert is_outside(ip_address(address))


def test_networks_that_are_let_through() -> None:
    allowed = parse_networks("10.1.0.0/16, fd00:1::/32")
    for good in ("10.1.2.3", "::ffff:10.1.2.3", "fd00:1::5", "8.8.8.8"):
        assert is_outside(ip_address(good), allowed), good
    for bad in ("10.2.0.1", "fd00:2::5", "127.0.0.1"):
        assert not is_outside(ip_address(bad), allowed), bad


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.com/", "must begin with https://$"),
        ("ftp://example.com/", "must begin with"),
        ("example.com", "must begin with"),
        ("https://user:secret@example.com/", "holds credentials"),
        ("https://@example.com/", "holds credentials"),
        ("https://example.com/#part", "fragment"),
        ("https://example.com/a b", "spaces"),
        ("https://example.com/\r\nX: y", "spaces or characters"),
        ("https://exämple.com/", "outside of ASCII"),
        ("https://example.com:25/", "port must be"),
        ("https://example.com:0/", "port must be"),
        ("https://example.com:99999/", "cannot be read"),
        ("https://[::1/", "cannot be read"),
        ("https://[fe80::1%25eth0]/", "no usable host|cannot be read"),
        ("https:///path", "no usable host"),
        ("https://./", "no usable host"),
        (f"https://example.com/{'a' * 2000}", "longer than"),
    ],
)
def test_urls_that_cannot_be(url: str, words: str) -> None:
    with pytest.raises(UnusableUrlError, match=words) as caught:
        WebhookUrl.parse(url, allow_http=False)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "place", "target", "host"),
    [
        ("https://Example.com", "example.com:443", "/", "example.com"),
        ("https://example.com/a?b=c", "example.com:443", "/a?b=c", "example.com"),
        ("https://example.com:8443/", "example.com:8443", "/", "example.com:8443"),
        ("http://[2606:4700::1111]/", "2606:4700::1111:80", "/", "[2606:4700::1111]"),
        ("http://example.com?x", "example.com:80", "/?x", "example.com"),
    ],
)
def test_urls(url: str, place: str, target: str, host: str) -> None:
    parsed = WebhookUrl.parse(url, allow_http=True)
    assert (parsed.place, parsed.target, parsed.host_header) == (place, target, host)

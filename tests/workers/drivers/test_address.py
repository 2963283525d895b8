from __future__ import annotations

import pytest

from workers.drivers.address import HostAddress


@pytest.mark.parametrize(
    ("text", "host", "port", "prefix", "header"),
    [
        ("http://h:9080", "h", 9080, "", "h:9080"),
        ("http://h", "h", 80, "", "h"),
        ("https://h/", "h", 443, "", "h"),
        ("HTTPS://H.test:444/a/b/", "h.test", 444, "/a/b", "h.test:444"),
        ("http://[::1]:9080", "::1", 9080, "", "[::1]:9080"),
        ("http://[fd00::1]", "fd00::1", 80, "", "[fd00::1]"),
    ],
)
def test_urls(text: str, host: str, port: int, prefix: str, header: str) -> None:
    address = HostAddress.parse(text)
    assert (address.host, address.port, address.prefix) == (host, port, prefix)
    assert address.host_header == header
    assert address.unix_path is None


def test_unix_socket() -> None:
    address = HostAddress.parse("unix:/run/dstack/vmm.sock")
    assert address.unix_path == "/run/dstack/vmm.sock"
    assert address.host_header == "localhost"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "scheme"),
        ("h:9080", "scheme"),
        ("ftp://h:1", "scheme"),
        ("qemu:///system", "scheme"),
        ("http://", "host and port"),
        ("http:///path", "host and port"),
        ("http://h:x", "cannot be read"),
        ("http://h:99999", "cannot be read"),
        ("http://[::1", "cannot be read"),
        ("http://h:0", "host and port"),
        ("http://.h", "host and port"),
        ("http://h:1?x=1", "query"),
        ("http://h:1#x", "query"),
        ("http://ops:hunter2@h:1", "credentials"),
        ("http://h:1/a b", "spaces"),
        ("http://h\n:1", "spaces"),
        ("http://hö:1", "ASCII"),
        ("unix:./vmm.sock", "absolute"),
        ("unix:", "absolute"),
        ("unix:/" + "x" * 107, "longer"),
    ],
)
def test_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        HostAddress.parse(text)
    assert "hunter2" not in str(caught.value)

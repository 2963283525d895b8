from __future__ import annotations

import pytest

from workers.drivers.libvirt.uri import LibvirtUri


@pytest.mark.parametrize(
    "text",
    [
        "qemu:///system",
        "qemu:///session?socket=/run/user/1/libvirt/libvirt-sock",
        "qemu+unix:///system",
        "qemu+tcp://host.example:16509/system",
        "qemu+tls://[::1]:16514/system?pkipath=/etc/cvmstop/pki",
        "qemu+libssh://user@host/system?known_hosts=/etc/known",
        "test:///default",
        "xen://host/",
    ],
)
def test_taken_as_they_are(text: str) -> None:
    uri = LibvirtUri.parse(text)
    assert (uri.text, uri.opened) == (text, text)


@pytest.mark.parametrize(
    ("text", "opened"),
    [
        ("qemu+ssh://user@host/system", "qemu+ssh://user@host/system?no_tty=1"),
        ("qemu+ssh://h/system?keyfile=/k", "qemu+ssh://h/system?keyfile=/k&no_tty=1"),
        ("qemu+ssh://h/system?no_tty=1", "qemu+ssh://h/system?no_tty=1"),
    ],
)
def test_ssh_asks_nobody(text: str, opened: str) -> None:
    assert LibvirtUri.parse(text).opened == opened


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no libvirt URI"),
        ("qemu", "no libvirt URI"),
        ("https://host/", "no libvirt URI"),
        ("QEMU:///system", "no libvirt URI"),
        ("qemu:///sys tem", "spaces"),
        ("qemu+ext:///system?command=/bin/sh", "transport"),
        ("qemu+ssh://h/system?command=/bin/sh", "starts a program"),
        ("qemu+ssh://h/system?netcat=/bin/sh", "starts a program"),
        ("qemu+tls://h/system?no_verify=1", "verification"),
        ("qemu+libssh2://h/system?known_hosts_verify=ignore", "verification"),
        # libvirt takes these for the same.
        ("qemu+ssh://h/system?Command=/bin/sh", "starts a program"),
        ("qemu+ssh://h/system?no_tty=1;command=/bin/sh", "starts a program"),
        ("qemu+ssh://h/system?%63ommand=/bin/sh", "starts a program"),
        ("qemu+ssh://h/system?NetCat=/bin/sh", "starts a program"),
        ("qemu+tls://h/system?x=1;no_verify=1", "not taken"),
        ("qemu+tls://h/system?no_tty=1;pkipath=/p", "'&'"),
        ("qemu+tls://h/system?NO_VERIFY=2", "verification"),
        ("qemu+libssh2://h/system?known_hosts_verify=auto", "verification"),
        ("qemu+tcp://h/system?authfile=/etc/passwd", "not taken"),
        ("qemu+tls:///system", "names no host"),
        ("qemu+tcp://u:hunter-two@h/system", "password"),
        ("esx://h/?proxy=socks://u:hunter-two@p", "secret"),
        ("qemu+tcp://h/system?password=hunter-two", "secret"),
        ("qemu+tcp://h:0x/system", "cannot be read"),
        ("qemu:///system#x", "fragment"),
    ],
)
def test_refused_without_being_repeated(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        LibvirtUri.parse(text)
    assert "hunter-two" not in str(caught.value)

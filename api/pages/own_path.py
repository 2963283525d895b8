"""Where to go after signing in: nowhere but to a page of ours."""

from __future__ import annotations

import re


OWN_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]*")
"""A path, and maybe a query: printable ASCII without `\\`, which browsers take for `/`.

One that begins with two of them would be a host (RFC 3986, section 4.2).
"""

HOME = "/"


def own_path(wanted: str) -> str:
    """Give where to go: there if it is a page of ours, else to the first one."""
    return wanted if OWN_PATH.fullmatch(wanted) else HOME

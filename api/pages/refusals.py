"""What a page is refused with that the API never is."""

from __future__ import annotations


class PageRefusedError(Exception):
    """A page, or a form, that is not served.

    Parameters
    ----------
    status
        Of the answer.
    title
        The page's heading.
    message
        What is wrong, and what to do.
    """

    def __init__(self, status: int, title: str, message: str) -> None:
        self.status = status
        self.title = title
        super().__init__(message)

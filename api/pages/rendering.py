"""From a template to an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from api.pages.session_cookie import form_token, session_token
from api.pages.wording import FILTERS


if TYPE_CHECKING:
    from fastapi import Request

    from shared.models.visitors import Visitor
    from shared.settings import ApiSettings

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`: with that, browsers send `Origin: null` with our own forms (Fetch, "append
    # a request `Origin` header").
    "Referrer-Policy": "same-origin",
}
"""Of everything that is for a browser. The image is the favicon, which the page has in itself."""

NO_STORE = {"Cache-Control": "no-store"}
"""Of every page: what was seen is not to be found after signing out."""


def make_templates(settings: ApiSettings) -> Environment:
    """Read where the templates are; everything that they show is escaped."""
    templates = Environment(
        loader=PackageLoader("api.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(FILTERS)
    templates.globals["flower_url"] = settings.flower_url
    return templates


def render(request: Request, template: str, *, status: int = 200, **context: Any) -> HTMLResponse:
    """Make a page.

    Parameters
    ----------
    request
        Whose `visitor`, if there is one, stands at the top.
    template
        File in `templates/`.
    status
        Of the answer.
    context
        What the template shows.
    """
    visitor: Visitor | None = getattr(request.state, "visitor", None)
    token = session_token(request)
    templates: Environment = request.app.state.templates
    text = templates.get_template(template).render(
        path=request.url.path,
        visitor=visitor,
        form_token=form_token(token) if token is not None else "",
        **context,
    )
    return HTMLResponse(text, status_code=status, headers={**HEADERS, **NO_STORE})

"""`cvmstop api`: serve the HTTP API."""

from __future__ import annotations

from typing import Annotated

import typer


def api(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
) -> None:
    """Serve the HTTP API until it is told to stop."""
    from api.main import create_app
    from api.server import serve
    from shared.engine import make_engine
    from shared.schema import require_current_schema
    from shared.settings import ApiSettings
    from shared.telemetry import configure_logging

    settings = ApiSettings.load()
    configure_logging(settings)
    # Looked at here too: from within its start-up, uvicorn would tell it with a traceback.
    engine = make_engine(settings, application="api-start")
    require_current_schema(engine)
    engine.dispose()
    app = create_app(settings)
    serve(app, settings, host=host, port=port, on_stop=app.state.parts.feeds.end_streams)

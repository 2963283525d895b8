"""Engine and session factory, made at import as usual."""

from __future__ import annotations

import os

from sqlalchemy import create_engine, make_url
from sqlalchemy.orm import sessionmaker


URL = make_url(os.environ["CVMSTOP_DATABASE_URL"]).set(drivername="postgresql+psycopg")

POOL = 20
OVERFLOW = 180
"""As many as the worker has threads: each holds a session for as long as its task runs."""

engine = create_engine(URL, pool_size=POOL, max_overflow=OVERFLOW)
SessionLocal = sessionmaker(engine, expire_on_commit=False)

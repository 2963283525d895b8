"""Conditions on a stop's state, as PostgreSQL finds its indexes by them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import literal_column

from shared.models.states import WAITING_STATES, StopState


if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import InstrumentedAttribute


def is_one_of(state: InstrumentedAttribute[str], *states: StopState) -> ColumnElement[bool]:
    """Say that a column is one of some states.

    They stand in the statement's text: a plan that PostgreSQL keeps for any parameters cannot use
    an index of the rows in some states. So not for a row that is looked for by its id.
    """
    return state.in_([literal_column(f"'{each}'") for each in states])


def is_waiting(state: InstrumentedAttribute[str]) -> ColumnElement[bool]:
    """Say that a stop waits for a worker."""
    return is_one_of(state, *WAITING_STATES)

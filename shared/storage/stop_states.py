"""Conditions on a stop's state, as PostgreSQL finds its indexes by them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import literal_column, or_

from shared.models.states import WAITING_STATES, StopState


if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import InstrumentedAttribute


def is_one_of(state: InstrumentedAttribute[str], *states: StopState) -> ColumnElement[bool]:
    """Say that a column is one of some states.

    They stand in the statement's text: a plan that PostgreSQL keeps for any parameters cannot use
    an index of the rows in some states otherwise. Not for rows that are looked for by their ids:
    see `is_still`.
    """
    return state.in_([literal_column(f"'{each}'") for each in states])


def is_still(state: InstrumentedAttribute[str], *states: StopState) -> ColumnElement[bool]:
    """Say that a row which is looked for by its id is in one of some states.

    No index is to be used for it, so it is not the column that is compared. While statistics say
    that no stop is open, an index of those in some states seems to be the shortest way to a row,
    and all that are in it were read for each claim.
    """
    itself = state.concat(literal_column("''"))
    return or_(*(itself == each for each in states))


def is_waiting(state: InstrumentedAttribute[str]) -> ColumnElement[bool]:
    """Say that a stop waits for a worker."""
    return is_one_of(state, *WAITING_STATES)

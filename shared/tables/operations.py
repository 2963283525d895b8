"""What other control planes do with CVMs."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from shared.tables.base import VACUUM_OFTEN, Base, CreatedAt


class CvmOperation(Base):
    """An operation that another control plane has open on a CVM; the row goes when it ends.

    While there is one, `cvms.in_progress` is true and no stop is open on the CVM (I3). Whoever
    writes here has locked the CVM's row.
    """

    __tablename__ = "cvm_operations"
    __table_args__ = (VACUUM_OFTEN,)

    cvm_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("cvms.id"), primary_key=True, autoincrement=False
    )
    name: Mapped[str]
    """What is done with the CVM, in the words of whoever does it."""
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    """The admin that said so last."""
    api_key_id: Mapped[UUID] = mapped_column(ForeignKey("api_keys.id"))
    started_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    """When it ends by itself, if nobody renews or clears it."""

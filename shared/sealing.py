"""Sealing of host credentials and webhooks' secrets, with keys that are not in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from shared.exceptions import SealError, SettingsError


if TYPE_CHECKING:
    from pydantic import SecretStr


class Sealer:
    """Seals and opens byte strings (Fernet: AES-128-CBC and HMAC-SHA256).

    Parameters
    ----------
    keys
        Fernet keys, comma separated; the first seals, all of them open.
    setting
        Where they come from.

    Raises
    ------
    SettingsError
        One of them is not a Fernet key.
    """

    def __init__(self, keys: SecretStr, setting: str = "CVMSTOP_SEALING_KEYS") -> None:
        try:
            self._fernet = MultiFernet(
                [Fernet(key.strip()) for key in keys.get_secret_value().split(",")]
            )
        except ValueError:
            msg = f"{setting}: not a Fernet key; `cvmstop keys sealing-key` prints one"
            raise SettingsError([msg]) from None

    def seal(self, value: bytes) -> bytes:
        """Seal a value with the first key."""
        return self._fernet.encrypt(value)

    def open(self, sealed: bytes) -> bytes:
        """Open what `seal` made.

        Raises
        ------
        SealError
            It was sealed with a key that is not among these, or was changed.
        """
        try:
            return self._fernet.decrypt(sealed)
        except InvalidToken:
            msg = (
                "host credentials cannot be opened with CVMSTOP_SEALING_KEYS: put back the key that"
                " sealed them, or give the host new ones with `cvmstop hosts add --replace`"
            )
            raise SealError(msg) from None


def make_webhook_sealer(keys: SecretStr | None) -> Sealer | None:
    """Make what seals webhooks' secrets; None where there are no keys, and so no webhooks.

    Raises
    ------
    SettingsError
        One of them is not a Fernet key.
    """
    return None if keys is None else Sealer(keys, "CVMSTOP_WEBHOOK_KEYS")


def new_sealing_key() -> str:
    """Make a key for `CVMSTOP_SEALING_KEYS` or `CVMSTOP_WEBHOOK_KEYS`."""
    return Fernet.generate_key().decode()

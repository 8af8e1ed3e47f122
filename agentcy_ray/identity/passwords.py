"""Password hashes: argon2id, made and checked on a thread since each costs tens of milliseconds.

A hash of bcrypt, as accounts that were brought from elsewhere have, is checked too and counts as
outdated: the next good login replaces it.
"""

from __future__ import annotations

import asyncio
import re

import bcrypt
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from agentcy_ray.core.errors import InvalidError

MIN_LENGTH, MAX_LENGTH = 12, 256

_BCRYPT = re.compile(r"\$2[aby]\$(0[4-9]|1[0-6])\$[./A-Za-z0-9]{53}")
"""Up to cost 16, which takes seconds; more would let one login hold a thread for minutes."""
_BCRYPT_BYTES = 72

_DECOY = (
    "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHRzb21lc2FsdA"
    "$6sVhr8qjfvcTZ6wl7kkKhGYhVmTdWXhr9EDnJ0Fl4lU"
)
"""Checked when the e-mail is unknown, so that a wrong e-mail takes as long as a wrong password."""


class Passwords:
    """Hash and check passwords with the library's recommended argon2id parameters."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher()

    async def hash(self, password: str) -> str:
        """An argon2id hash in PHC form."""
        return await asyncio.to_thread(self._hasher.hash, password)

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether ``password`` belongs to ``stored``; takes as long when there is no hash."""
        return await asyncio.to_thread(self._verify, stored, password)

    def _verify(self, stored: str | None, password: str) -> bool:
        if stored is not None and _BCRYPT.fullmatch(stored):
            # It never saw more than 72 bytes; today's library wants to be given no more.
            return bcrypt.checkpw(password.encode()[:_BCRYPT_BYTES], stored.encode())
        try:
            return self._hasher.verify(stored or _DECOY, password) and stored is not None
        except (VerificationError, InvalidHashError):
            return False

    def outdated(self, stored: str) -> bool:
        """Whether a good login should replace this hash by one with today's parameters."""
        return bool(_BCRYPT.fullmatch(stored)) or self._hasher.check_needs_rehash(stored)


def check_new(password: str, email: str) -> None:
    """Refuse a password that is too short, too long or the e-mail itself.

    Raises:
        InvalidError: with the rule that it breaks.
    """
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise InvalidError(f"a password has {MIN_LENGTH} to {MAX_LENGTH} characters")
    if password.lower() == email.lower():
        raise InvalidError("the password must differ from the e-mail")

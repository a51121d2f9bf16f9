"""`Private[T]`: a value computed from patients, which cannot be serialised, printed or iterated.

Only `kernel` opens one, and only two things come out of the kernel: `Released` bytes, or a file that stays at the site.
"""

from collections.abc import Callable
from typing import Generic, NamedTuple, NoReturn, TypeVar

from genopact_shared.privacy.accounting import Fact

T = TypeVar("T")
U = TypeVar("U")


class Private(Generic[T]):
    """A box around patients' data."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def derive(self, function: Callable[[T], U]) -> "Private[U]":
        """The result of a computation inside the box, in a box of its own."""
        return Private(function(self._value))

    def __repr__(self) -> str:
        return "Private(...)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("Private values are never serialised")


class Released(NamedTuple):
    """Bytes that may leave the site, and the fact that was charged for them. Only the kernel makes one."""

    body: bytes
    fact: Fact

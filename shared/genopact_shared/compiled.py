"""Numerical loops as machine code, made by numba when they are first used."""

from collections.abc import Callable
from functools import cache
from typing import Any, cast


@cache
def compiled(loop: Callable[..., Any], *, reassociate: bool = False) -> Callable[..., Any]:
    """A compiled loop; `reassociate`: float sums in it may be taken in another order.

    Nothing is cached on disk: numba would load it by unpickling.
    """
    from numba import njit

    fastmath = {"contract", "nsz"} | ({"reassoc"} if reassociate else set())
    return cast("Callable[..., Any]", njit(fastmath=fastmath, error_model="numpy")(loop))

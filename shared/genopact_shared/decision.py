"""Decision roots: a site commits to who is permitted before a round, and can open the commitment on site later."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from genopact_shared import canonical
from genopact_shared.statements import Digest, Intent
from genopact_shared.study import Frozen


class Opening(Frozen):
    """Everything that a decision root commits to. It stays on site.

    `bitmap`: hexadecimal, one bit a row of the registry, first row in the highest bit (numpy.packbits), 1 = permitted,
    spare bits 0. `as_of`: Unix seconds. `salt`: 32 bytes, fresh for each root.

    Guarantees:
        The root tells nothing about the bitmap to whom the salt is unknown, however small the registry is.
        Finding a second opening of a root means finding a SHA-256 collision.
    """

    schema_: Literal["genopact.decision/1"] = Field(default="genopact.decision/1", alias="schema")
    study: Digest
    policy: Digest
    matcher: Digest
    as_of: int = Field(ge=0)
    registry_root: Digest
    registry_size: int = Field(ge=0)
    bitmap: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2})*$")]
    salt: Digest

    @model_validator(mode="after")
    def _one_bit_a_row(self) -> Self:
        bits = bytes.fromhex(self.bitmap)
        spare = 8 * len(bits) - self.registry_size
        if not 0 <= spare < 8 or int.from_bytes(bits[-1:], "big") & ((1 << spare) - 1):
            raise ValueError("the bitmap has one bit for each row and zeros after them")
        return self

    def root(self) -> str:
        """The decision root: 64 hexadecimal digits."""
        shown = self.model_dump(mode="json", by_alias=True, exclude={"bitmap", "salt"})
        hidden = canonical.digest(bytes.fromhex(self.salt) + bytes.fromhex(self.bitmap))
        return canonical.digest_of(shown | {"permitted": hidden})

    def permits(self, row: int) -> bool:
        """Whether the row was permitted; a row outside the registry was not."""
        return 0 <= row < self.registry_size and bool(bytes.fromhex(self.bitmap)[row // 8] >> (7 - row % 8) & 1)


def verify_opening(opening: Opening, intent: Intent) -> bool:
    """Whether the opening is that of the decisions behind an intent."""
    return opening.study == intent.study and opening.root() == intent.decision_root

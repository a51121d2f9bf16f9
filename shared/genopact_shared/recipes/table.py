"""What a recipe reads of patients: columns, matrices, genotypes, and the table that holds them."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from genopact_shared.errors import GenopactError, require
from genopact_shared.study import Frozen, Modality

Role = Literal["feature", "outcome", "group"]
Floats = NDArray[np.float64]
Codes = NDArray[np.int8]
PEOPLE = 256
"""Patients whose genotypes are in memory at a time."""
Values = NDArray[np.float32]
GENOTYPES = "genotypes"
"""The outcome of a recipe that learns genotypes themselves."""


@dataclass(frozen=True)
class Number:
    """A real covariate; values outside [low, high] are errors of the file."""

    name: str
    unit: str
    low: float
    high: float
    role: Role = "feature"


@dataclass(frozen=True)
class Choice:
    """One of several levels, coded by their order. As a group it also breaks metrics down."""

    name: str
    levels: tuple[str, ...]
    role: Role = "feature"


@dataclass(frozen=True)
class Flag:
    """Yes or no."""

    levels: ClassVar = ("0", "1")
    name: str
    role: Role = "feature"


@dataclass(frozen=True)
class Dosage:
    """Copies (0, 1, 2) of the effect allele of one variant; both alleles on the forward strand of the reference."""

    levels: ClassVar = ("0", "1", "2")
    name: str
    rsid: str
    gene: str
    effect: str
    other: str
    role: Role = "feature"


Column = Number | Choice | Flag | Dosage


class GenotypeParameters(Frozen):
    """Hyper-parameters of a recipe that reads genotypes.

    `variants`: digest of the variant manifest. A field `design` is the digest of the published file that says what
    becomes of them, where the recipe needs one.
    """

    variants: str = Field(pattern=r"^[0-9a-f]{64}$")


class Matrix(Frozen):
    """A sealed matrix that a recipe reads.

    `name`: of the store. `features`: how many, and `digest`: SHA-256 of their list, a line each, as it was imported.
    `data`: of what kind they are; the study has to ask for it.
    """

    name: str = Field(pattern=r"^[a-z0-9-]{1,64}$")
    features: int = Field(ge=1, le=1 << 20)
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    data: Modality


class MatrixParameters(Frozen):
    """Hyper-parameters of a recipe that reads matrices. A patient may lack any of them."""

    matrices: tuple[Matrix, ...] = Field(min_length=1, max_length=16)


def digest_of_features(names: Iterable[str]) -> str:
    """What `Matrix.digest` says of a list of features."""
    return hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()


class Genotypes(Protocol):
    """Genotypes of n patients over the V variants of one manifest, read some patients at a time."""

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> "Genotypes":
        """Those of some patients, by index or by mask."""
        ...

    def dosages(self, some: slice) -> Codes:
        """(b, V) int8 copies of the effect allele, -1 missing; the array is the caller's until the next call."""
        ...


@dataclass(frozen=True, eq=False)
class Copies:
    """Genotypes that are public or made up: rows of `array` (people, V) int8, all of them by default."""

    array: Codes
    rows: NDArray[np.intp] | None = None

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> "Copies":
        """Those of some patients."""
        return Copies(self.array, (np.arange(len(self.array)) if self.rows is None else self.rows)[rows])

    def dosages(self, some: slice) -> Codes:
        """Some patients' copies of the effect allele."""
        return self.array[some] if self.rows is None else self.array[self.rows[some]]


@dataclass(frozen=True, eq=False)
class Table:
    """Covariates of n patients, one array per column that the site has; a column of the schema may be absent.

    Number: float64, NaN missing. Choice, Flag and Dosage: int8, -1 missing. All of shape (n,). `genotypes`: of the same
    patients in the same order, where the recipe asks for them. `site`: whose patients they are, as the study names it.
    `matrices`: by name, (n, F) float32, NaN missing; a patient without one has NaN throughout.

    Raises:
        GenopactError: TABLE_INVALID for another shape or dtype.
    """

    columns: Mapping[str, Floats | Codes]
    n: int
    genotypes: Genotypes | None = None
    site: str = ""
    matrices: Mapping[str, Values] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, column in self.columns.items():
            if column.shape != (self.n,) or column.dtype not in (np.float64, np.int8):
                raise GenopactError("TABLE_INVALID", f"column {name}: {column.dtype} of shape {column.shape}")
        for name, values in self.matrices.items():
            if values.ndim != 2 or len(values) != self.n or values.dtype != np.float32:
                raise GenopactError("TABLE_INVALID", f"matrix {name}: {values.dtype} of shape {values.shape}")

    def number(self, name: str) -> Floats:
        """(n,) float64; all NaN where the site has no such column."""
        return self.columns.get(name, np.full(self.n, np.nan)).astype(np.float64)

    def codes(self, name: str) -> Codes:
        """(n,) int8; all -1 where the site has no such column."""
        return self.columns.get(name, np.full(self.n, -1, dtype=np.int8)).astype(np.int8)

    def known(self, name: str) -> NDArray[np.bool_]:
        """(n,) who has a value of an outcome: a column, a matrix (at least one number of it), or GENOTYPES."""
        column = self.columns.get(name, self.matrices.get(name))
        if column is None:
            return np.full(self.n, name == GENOTYPES)
        found: NDArray[np.bool_] = column >= 0 if column.dtype == np.int8 else ~np.isnan(column)
        return found if found.ndim == 1 else np.asarray(found.any(axis=1))

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> "Table":
        """The table of some rows, by index or by mask."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        matrices = {name: values[rows] for name, values in self.matrices.items()}
        genotypes = self.genotypes and self.genotypes.take(rows)
        return Table(columns, int(np.arange(self.n)[rows].size), genotypes, self.site, matrices)

    def dosages(self, variants: int | None = None) -> Iterator[tuple[slice, Codes]]:
        """Genotypes, PEOPLE patients at a time: which, and their (b, V) int8.

        Raises:
            GenopactError: GENOTYPES_MISSING; PUBLISHED_INVALID for another number of variants than a file was made for.
        """
        if self.genotypes is None:
            raise GenopactError("GENOTYPES_MISSING")
        for first in range(0, self.n, PEOPLE):
            some = slice(first, min(first + PEOPLE, self.n))
            copies = self.genotypes.dosages(some)
            require(variants in {None, copies.shape[1]}, "PUBLISHED_INVALID", "for other variants")
            yield some, copies

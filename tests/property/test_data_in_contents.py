"""Key file, store, table and genotypes for arbitrary contents."""

import contextlib
import csv
import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from genopact_client.keyfile import KeyFile
from genopact_client.store.sealed import Store
from genopact_ingest.findings import ImportRefusedError
from genopact_ingest.panel import read_vcf
from genopact_ingest.table import read_table
from genopact_shared.errors import GenopactError
from genopact_shared.recipes.table import Choice, Column, Dosage, Flag, Number, Table

SCHEMA: tuple[Column, ...] = (
    Number("age", "years", 0, 120),
    Choice("sex", ("female", "male", 'a "quoted", level')),
    Flag("smoker"),
    Dosage("snp", "rs9923231", "VKORC1", effect="T", other="C"),
    Number("dose", "mg/week", 0.5, 400, "outcome"),
)
few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

ages = st.none() | st.floats(0, 120).map(lambda value: value + 0.0)
rows = st.tuples(ages, st.integers(-1, 2), st.integers(-1, 1), st.integers(-1, 2), st.none() | st.floats(0.5, 400))


def table_of(values: list[tuple[float | None, int, int, int, float | None]]) -> Table:
    columns = list(zip(*values, strict=True))
    kinds = [np.float64, np.int8, np.int8, np.int8, np.float64]
    return Table(
        {
            column.name: np.array([np.nan if value is None else value for value in cells], kind)
            for column, cells, kind in zip(SCHEMA, columns, kinds, strict=True)
        },
        len(values),
    )


def assert_equal(first: Table, second: Table) -> None:
    for name, values in first.columns.items():
        np.testing.assert_array_equal(values, second.columns[name])


@few
@given(st.lists(st.tuples(st.integers(0, 30), rows), min_size=1, max_size=8, unique_by=lambda item: item[0]))
def test_store_round_trip(items: list[tuple[int, tuple[float | None, int, int, int, float | None]]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        keys = KeyFile.create(Path(name) / "keyfile", bytes(32))
        keys.new_many(31)
        table, places = table_of([row for _, row in items]), np.array([place for place, _ in items])
        with Store.create(Path(name) / "store", keys, SCHEMA, "public") as store:
            store.write(places, table)
        with Store(Path(name) / "store", keys) as store:
            assert store.rows().tolist() == sorted(places.tolist())
            assert_equal(store.table(places), table)


people = st.lists(
    st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).map(str.strip).filter(bool),
    min_size=1,
    max_size=6,
    unique=True,
)


@few
@given(people, st.data())
def test_csv_round_trip(names: list[str], data: st.DataObject) -> None:
    values = [data.draw(rows) for _ in names]
    levels = SCHEMA[1].levels if isinstance(SCHEMA[1], Choice) else ()
    genotypes = {-1: ["", "NA"], 0: ["0", "C/C", "G|G"], 1: ["1", "T/C", "G/A"], 2: ["2", "T|T", "A/A"]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["person", *(column.name for column in SCHEMA)])
            for person, (age, sex, smoker, snp, dose) in zip(names, values, strict=True):
                cells = ["" if age is None else repr(age), "" if sex < 0 else levels[sex], ["no", "yes", ""][smoker]]
                genotype = data.draw(st.sampled_from(genotypes[snp]))
                writer.writerow([person, *cells, genotype, "NA" if dose is None else repr(dose)])
        covariates = read_table(path, SCHEMA)
    assert covariates.people == tuple(names)
    assert_equal(table_of(values), covariates.table)


@few
@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: ("person,dose\n" + text).encode()))
def test_any_bytes_are_a_table_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        path.write_bytes(content)
        with contextlib.suppress(ImportRefusedError):
            read_table(path, SCHEMA)


alleles = st.sampled_from(["C", "T", "A", "G", "*", "<DEL>", "TT"])


@few
@given(
    st.lists(alleles, max_size=3, unique=True).filter(lambda found: "C" not in found),
    st.lists(st.tuples(*[st.sampled_from([".", "0", "1", "2", "3"])] * 2), min_size=1, max_size=5),
    st.sampled_from("/|"),
)
def test_vcf_dosage_equals_counting_letters(alts: list[str], calls: list[tuple[str, str]], separator: str) -> None:
    """Naive reference: spell out both alleles of each call and count T; anything but two bases is missing."""
    letters = ["C", *alts]
    wanted = [column for column in SCHEMA if isinstance(column, Dosage)]
    cells = [separator.join(call) for call in calls]
    samples = [f"s{number}" for number in range(len(calls))]
    lines = [
        "##fileformat=VCFv4.2",
        "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t" + "\t".join(samples),
        f"16\t31096368\t.\tC\t{','.join(alts) or '.'}\t.\t.\t.\tGT\t" + "\t".join(cells),
    ]
    known = {str(index): letter for index, letter in enumerate(letters)} | {".": "."}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.vcf"
        path.write_text("\n".join(lines) + "\n")
        if not {index for call in calls for index in call} <= known.keys():
            with pytest.raises(ImportRefusedError, match="VCF_CALL"):
                read_vcf(path, wanted, "GRCh38")
            return
        found = read_vcf(path, wanted, "GRCh38").dosages["snp"].tolist()
    spelt = [[known[index] for index in call] for call in calls]
    assert found == [pair.count("T") if set(pair) <= set("ACGT") else -1 for pair in spelt]


class Keys(RuleBasedStateMachine):
    """The key file against a dictionary: issue, erase and reopen in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "keyfile"
        self.keys = KeyFile.create(self.path, bytes(32))
        self.expected: dict[int, bytes | None] = {}

    @rule(count=st.integers(0, 5))
    def issue(self, count: int) -> None:
        slots = self.keys.new_many(count)
        assert list(slots) == list(itertools.islice(itertools.count(len(self.expected)), count))
        self.expected |= {slot: self.keys.key(slot, "row") for slot in slots}

    @rule(data=st.data())
    def erase(self, data: st.DataObject) -> None:
        slots = data.draw(st.lists(st.sampled_from(sorted(self.expected)))) if self.expected else []
        self.keys.erase(slots)
        self.expected |= dict.fromkeys(slots)

    @rule()
    def reopen(self) -> None:
        epoch = self.keys.epoch
        self.keys = KeyFile.open(self.path, bytes(32))
        assert self.keys.epoch == epoch

    @invariant()
    def keys_are_as_expected(self) -> None:
        alive = self.keys.alive(np.arange(len(self.expected)))
        for slot, key in self.expected.items():
            assert alive[slot] == (key is not None)
            if key is not None:
                assert self.keys.key(slot, "row") == key
                continue
            with pytest.raises(GenopactError, match="KEY_ERASED"):
                self.keys.key(slot, "row")
        values = [key for key in self.expected.values() if key]
        assert len(set(values)) == len(values)

    def teardown(self) -> None:
        self.folder.cleanup()


TestKeys = Keys.TestCase
TestKeys.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)

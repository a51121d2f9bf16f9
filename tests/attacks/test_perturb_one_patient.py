"""Nothing leaves but by the two doors: one patient is changed, or withdraws, and all bytes on the wire are compared.

The federation runs again and again from the same folders with the same keys, nonces, salts, clock and run number, and
with noise of zero, so that whatever differs between two runs is there because of that patient. Allowed to differ is
what the doors released, and what is made of it or of the salted commitments: digests, signatures, the model.
"""

import base64
import datetime as dt
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from genopact_client.agent.exchange import Exchange
from genopact_client.release import kernel
from genopact_client.site import Site
from genopact_server.folder import Folder
from genopact_server.rounds import Run
from genopact_server.sitelogs import unpack
from genopact_shared import canonical, wire
from genopact_shared.errors import GenopactError
from genopact_shared.privacy.mechanisms import NoisedSum
from genopact_shared.secagg import masking, sharing
from tests.integration.hospital import PASSPHRASE, DirectCourier, consortium

NOW = 1_800_000_000
SITE, PATIENT, ANOTHER = "site-b", 5, 9
Leaves = dict[str, Any]
Carried = list[tuple[str, bytes, bytes]]
Perform = Callable[[Callable[[Site], None]], Carried]

RELEASED = {"sum", "tag", "coefficients", "metrics"}
"""Tensors whose numbers are released; their names, shapes and types are not."""
DERIVED = {
    "body", "request", "intent", "update", "prev", "model_in", "model_out", "total", "receipts", "digest.sha256",
    "sig", "line", "opens",
}  # fmt: skip
"""Digests and signatures of released things; `line`: a proof's or a checkpoint's hashes and signature; `opens`: random
secrets, sealed under keys that are bound to the digests of the uploads."""
COMMITMENTS = {"decision_root", "ledger_root"}
"""Salted or keyed: they change with who is permitted, and tell nothing about it."""


class Stream:
    """Bytes that are the same in every run."""

    def __init__(self) -> None:
        self._number = itertools.count()

    def __call__(self, size: int) -> bytes:
        seed = next(self._number).to_bytes(8, "big")
        return hashlib.shake_256(seed).digest(size)


class StreamedKey:
    """Stands for X25519PrivateKey in `masking`."""

    from_private_bytes = X25519PrivateKey.from_private_bytes

    @staticmethod
    def generate() -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(os.urandom(32))


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folders of a consortium that has approved, and the study's hash."""
    one = consortium(tmp_path_factory.mktemp("perturb") / "origin")
    one.close()
    return one.folder.home.parent, one.study.hash


@pytest.fixture(scope="module")
def perform(origin: tuple[Path, str]) -> Iterator[Perform]:
    """Run the whole study on a copy of the folders after `change` was done to one site; returns what was carried."""
    opened: list[Site] = []
    known: dict[Callable[[Site], None], Carried] = {}

    def run(change: Callable[[Site], None]) -> Carried:
        if change in known:
            return known[change]
        home = origin[0].with_name(f"run-{len(known)}")
        shutil.copytree(origin[0], home)
        sites = {name: Site.open(home / name, PASSPHRASE) for name in ("site-a", "site-b", "site-c")}
        opened.extend(sites.values())
        change(sites[SITE])
        folder = Folder(home / "coordinator")
        with pytest.MonkeyPatch.context() as patch, suppress(GenopactError):
            stream = Stream()
            patch.setattr(os, "urandom", stream)
            patch.setattr(secrets, "token_hex", lambda size: stream(size).hex())
            patch.setattr(time, "time", lambda: float(NOW))
            patch.setattr(masking, "X25519PrivateKey", StreamedKey)
            patch.setattr(sharing, "draw", lambda: int.from_bytes(stream(15), "big"))
            patch.setattr(kernel, "skellam", lambda variance, size: np.zeros(size, np.int64))
            courier = DirectCourier({name: Exchange(site, lambda: NOW) for name, site in sites.items()})
            known[change] = courier.carried
            Run.start(folder, folder.study(origin[1]), courier).go()
        folder.close()
        return known[change]

    yield run
    for site in opened:
        for room in ("store", "ledger", "log", "private_log", "registry"):
            if room in vars(site):
                getattr(site, room).close()


def as_it_was(_: Site) -> None:
    """Nothing is changed."""


def exchanged(site: Site) -> None:
    """The patient gets the values of another one who is permitted, too."""
    rows = site.store.rows()
    order = np.arange(len(rows))
    order[PATIENT] = ANOTHER
    site.store.write(rows, site.store.table(rows).take(order))


def withdrawn(site: Site) -> None:
    site.registry.withdraw(PATIENT, "no_new_use", dt.date(2026, 1, 1))


def rewritten(site: Site) -> None:
    """The same values, sealed anew."""
    rows = site.store.rows()
    site.store.write(rows, site.store.table(rows))


def leaves(name: str, frame: bytes) -> Leaves:
    """Everything that stands in a frame, by path; signed texts within are opened."""
    envelope, body = wire.split(frame)
    found = {f"{name}.size": len(frame), **_of_envelope(name, envelope)}
    about = json.loads(base64.b64decode(canonical.decode(envelope)["payload"]))
    if body and (about["op"], name) == ("finish", "reply"):
        checkpoint, *entries = unpack(body)
        found |= _of_lines(f"{name}.checkpoint", checkpoint.decode())
        for number, entry in enumerate(entries):
            found |= _of_envelope(f"{name}.log.{number}", entry)
    elif about["op"] in ("deal", "join"):
        found[f"{name}.deals"] = body
    elif (about["op"], name) == ("unmask", "reply"):
        found[f"{name}.opens"] = body.hex()
    elif about["op"] == "unmask":
        for number, each in enumerate(wire.cut(body)):
            found |= _of_envelope(f"{name}.upload.{number}", each)
    elif body:
        model, total = body[: len(body) - about.get("total_size", 0)], body[len(body) - about.get("total_size", 0) :]
        masked = name == "reply"
        found |= _of_tensors(name, model, np.uint32 if masked else np.float64)
        found |= _of_tensors(f"{name}.before", total, np.int64) if total else {}
    return found


def _of_tensors(path: str, body: bytes, dtype: type[np.generic]) -> Leaves:
    header = int.from_bytes(body[:8], "little")
    values = {f"{path}.values.{key}": each.tolist() for key, each in wire.unpack(body, dtype, tag=np.uint64).items()}
    return {f"{path}.tensors": body[8 : 8 + header], **values}


def _of_envelope(path: str, envelope: bytes) -> Leaves:
    outer = canonical.decode(envelope)
    found = _of_json(path, json.loads(base64.b64decode(outer["payload"])))
    return found | _of_json(f"{path}.signed", {key: value for key, value in outer.items() if key != "payload"})


def _of_json(path: str, value: Any) -> Leaves:
    if isinstance(value, dict):
        return {key: leaf for name, each in value.items() for key, leaf in _of_json(f"{path}.{name}", each).items()}
    if isinstance(value, list):
        found = {f"{path}.length": len(value)}
        return found | {
            key: leaf for n, each in enumerate(value) for key, leaf in _of_json(f"{path}.{n}", each).items()
        }
    if isinstance(value, str) and value.startswith('{"payload"'):
        return _of_envelope(path, value.encode())
    return _of_lines(path, value) if isinstance(value, str) and "\n" in value else {path: value}


def _of_lines(path: str, text: str) -> Leaves:
    """A proof or a checkpoint: origin, tree size and index as they are, hashes and signature as `line`."""
    lines = text.split("\n")
    kept = {f"{path}.{n}": line for n, line in enumerate(lines) if not _is_hash(line)}
    return kept | {f"{path}.{n}.line": line for n, line in enumerate(lines) if _is_hash(line)}


def _is_hash(line: str) -> bool:
    return line.startswith("— ") or (len(line) == 44 and line.endswith("="))


def changed(before: Carried, after: Carried) -> dict[str, tuple[Any, Any]]:
    """Every leaf that differs, by exchange, site, direction and path. The exchanges themselves are the same."""
    assert [name for name, _, _ in before] == [name for name, _, _ in after]
    found: dict[str, tuple[Any, Any]] = {}
    for number, ((name, *old), (_, *new)) in enumerate(zip(before, after, strict=True)):
        for direction, was, now in zip(("request", "reply"), old, new, strict=True):
            left, right = leaves(direction, was), leaves(direction, now)
            assert left.keys() == right.keys()
            differing = {path for path in left if left[path] != right[path]}
            found |= {f"{number}.{name}.{path}": (left[path], right[path]) for path in differing}
    return found


def forbidden(found: dict[str, tuple[Any, Any]], *more: str) -> list[str]:
    """Leaves that may not depend on one patient; a digest or signature may, if it stays one."""
    wrong = []
    for path, (was, now) in found.items():
        allowed = any(path.endswith(f".values.{name}") for name in RELEASED)
        unnumbered = re.sub(r"\.\d+$", "", path)
        named = any(unnumbered.endswith(f".{name}") for name in (*DERIVED, *more))
        same_form = isinstance(was, str) and isinstance(now, str) and len(was) == len(now)
        wrong += [] if allowed or (named and same_form) else [path]
    return wrong


def test_two_runs_of_the_same_data_are_the_same_bytes(perform: Perform) -> None:
    """The control: without this, the comparisons below would compare noise. And the study came to its end."""
    assert perform(as_it_was) == perform(rewritten)
    assert [op(request) for _, request, _ in perform(as_it_was)][-3:] == ["finish"] * 3


def test_another_patients_values_change_the_sums_and_what_follows_from_them(perform: Perform) -> None:
    found = changed(perform(as_it_was), perform(exchanged))
    assert found, "the patient matters"
    assert forbidden(found) == []
    assert not [path for path in found if path.endswith((".size", "_root"))]


def test_in_the_first_step_nothing_else_changes_at_any_site(perform: Perform) -> None:
    """Before the first aggregate the sites know nothing of one another."""
    before, after = perform(as_it_was), perform(exchanged)
    first = next(n for n, (name, request, _) in enumerate(before) if name == SITE and op(request) == "step")
    assert before[:first] == after[:first]
    names = {path.partition(f".{SITE}.")[2] for path in changed(before[first : first + 1], after[first : first + 1])}
    assert names == {"reply.body", "reply.values.sum", "reply.values.tag", "reply.signed.signatures.0.sig"}
    moved = difference(before[first][2], after[first][2])
    fact = NoisedSum.model_validate(intent(before[first][2])["mechanism"])
    assert 0 < np.linalg.norm(moved) <= 2 * float(fact.clip) * fact.scale, "one patient's row for another's"


def test_a_withdrawal_changes_no_size_and_no_number(perform: Perform) -> None:
    before, after = perform(as_it_was), perform(withdrawn)
    found = changed(before, after)
    assert any(path.endswith("decision_root") for path in found), "the withdrawal took effect"
    assert forbidden(found, *COMMITMENTS) == []
    assert [(len(q), len(r)) for _, q, r in before] == [(len(q), len(r)) for _, q, r in after]
    first = next(n for n, (name, request, _) in enumerate(before) if name == SITE and op(request) == "step")
    fact = NoisedSum.model_validate(intent(before[first][2])["mechanism"])
    assert 0 < np.linalg.norm(difference(before[first][2], after[first][2])) <= float(fact.clip) * fact.scale


def test_an_empty_cohort_looks_like_any_other(perform: Perform) -> None:
    """Nobody permitted, or everybody exhausted: the site answers with its noise alone, in the same number of bytes."""

    def nobody(site: Site) -> None:
        for row in site.store.rows().tolist():
            site.registry.withdraw(row, "no_new_use", dt.date(2026, 1, 1))

    def exhausted(site: Site) -> None:
        big = NoisedSum(noise_multiplier="0.3", clip="1", scale=1024, dims=1, honest_minimum=2)
        site.ledger.reserve("0" * 64, "1" * 32, 0, 0, big, site.store.rows(), 20_000)

    before = perform(as_it_was)
    for change in (nobody, exhausted):
        assert [(n, len(q), len(r)) for n, q, r in perform(change)] == [(n, len(q), len(r)) for n, q, r in before]


def test_every_refusal_is_the_same_nothing(perform: Perform) -> None:
    """A narrowed policy, or a study that was never approved: no bytes each time."""

    def narrowed(site: Site) -> None:
        path = site.home / "policy.yaml"
        path.write_text(path.read_text().replace("max_epsilon_milli: 5000", "max_epsilon_milli: 1"))

    def unapproved(site: Site) -> None:
        shutil.rmtree(site.home / "studies")

    for change in (narrowed, unapproved):
        carried = perform(change)
        refused = [reply for name, request, reply in carried if name == SITE and op(request) == "open"]
        assert refused
        assert set(refused) == {wire.UNAVAILABLE}
        assert wire.UNAVAILABLE not in [reply for name, _, reply in carried if name != SITE]


def op(frame: bytes) -> str:
    return str(json.loads(payload(frame))["op"])


def payload(frame: bytes) -> bytes:
    return base64.b64decode(canonical.decode(wire.split(frame)[0])["payload"])


def intent(reply: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(payload(wire.MAGIC + _framed(json.loads(payload(reply))["intent"].encode())))
    return dict(found["predicate"])


def _framed(envelope: bytes) -> bytes:
    return len(envelope).to_bytes(4, "big") + envelope


def difference(before: bytes, after: bytes) -> np.ndarray[Any, np.dtype[np.int64]]:
    """How far a masked sum moved; the masks of the two runs are the same."""
    old, new = (wire.unpack(wire.split(frame)[1], np.uint32, tag=np.uint64)["sum"] for frame in (before, after))
    return (new - old).view(np.int32).astype(np.int64)

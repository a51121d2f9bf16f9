"""One whole exchange of site-a with fixed keys, nonces and times: what tests/golden/wire/ freezes.

python -m tests.golden.wire_exchange      writes it again, after a deliberate change of the format
"""

import hashlib
import itertools
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from genopact_server.aggregate import opened_total
from genopact_shared import canonical, statements, wire
from genopact_shared.keys import SigningKey
from genopact_shared.plan import PlannedStep
from genopact_shared.privacy.mechanisms import NoisedSum
from genopact_shared.secagg import sharing
from genopact_shared.secagg.masking import Masked, Masking, Opening
from genopact_shared.study import load_study
from genopact_shared.tlog.log import Log, pack
from genopact_shared.wire import Reply, Request

FOLDER = Path(__file__).parent / "wire"
STUDY = load_study(FOLDER / "study.yaml")
RUN = "0123456789abcdef" * 2
NOW, EXPIRES = 1_800_000_000, 1_800_000_180
SITES = ("site-a", "site-b", "site-c")
TOTALS = {"site-a": [1, -2, 3], "site-b": [10, -20, 30], "site-c": [-100, 200, -300]}
FACT = NoisedSum(noise_multiplier="6.163193", clip="3.0", scale=1024, dims=3, honest_minimum=2)
MODEL: dict[str, NDArray[np.float64]] = {"coefficients": np.zeros(3)}
NEXT: dict[str, NDArray[np.float64]] = {"coefficients": np.array([-0.5, 0.25, 3.0])}


def seed(name: str) -> bytes:
    return hashlib.sha256(f"genopact test key {name}".encode()).digest()


def key(party: str, use: str = "identity") -> SigningKey:
    return SigningKey(seed(f"{party} {use}"))


STEP = PlannedStep(0, "gradient-1", FACT, share_variance=1.0, bits=32)


class Masks:
    """What the three sites' masks say, with keys and secrets that are none."""

    def __init__(self) -> None:
        drawn = (int.from_bytes(seed(f"element {number}")[:15], "big") for number in itertools.count())
        with mock.patch.object(sharing, "draw", side_effect=drawn):
            self._play()

    def _play(self) -> None:
        made = {site: self._masking(site) for site in SITES}
        self.keys = {site: each.public for site, each in made.items()}
        context = {"study": STUDY.hash, "run": RUN, "round": 0, "attempt": 0}
        self.opening = Opening(context, self.keys, STUDY.schedule.quorum, range(1))
        self.deals = {site: each.deal(site, self.opening) for site, each in made.items()}
        for each in made.values():
            each.join(self.deals)
        masked: dict[str, Masked] = {
            site: each.mask(0, np.array(TOTALS[site], dtype=np.int64), 32) for site, each in made.items()
        }
        self.uploads = {site: wire.pack(each) for site, each in masked.items()}
        active = {site: canonical.digest(body) for site, body in self.uploads.items()}
        self.reveals = {site: each.reveal(0, active) for site, each in made.items()}
        self.total = opened_total(self.opening, STEP, self.deals, self.uploads, self.reveals)

    @staticmethod
    def _masking(site: str) -> Masking:
        private = X25519PrivateKey.from_private_bytes(seed(f"{site} mask"))
        with mock.patch.object(X25519PrivateKey, "generate", return_value=private):
            return Masking()


MASKS = Masks()


def approval(site: str) -> str:
    made = statements.Approval(at=NOW - 86_400, study=STUDY.hash, site=site, planned_cohort=400, policy="a" * 64)
    return statements.sign(made, key(site, "approver")).decode()


def request(op: str, site: str, number: int, body: bytes = b"", **about: object) -> bytes:
    fields = {
        "op": op, "study": STUDY.hash, "run": RUN, "round": 1 if op == "finish" else 0, "attempt": 0, "site": site,
        "body": canonical.digest(body), "body_size": len(body), "nonce": f"{number:032x}", "expires": EXPIRES,
    }  # fmt: skip
    return wire.seal(Request.model_validate(fields | about), body, key("coordinator"))


def reply(asked: bytes, body: bytes = b"", **about: object) -> bytes:
    envelope = wire.split(asked)[0]
    of = wire.parse_envelope(Request, envelope, key("coordinator").public)
    fields = of.model_dump(include={"op", "study", "run", "round", "attempt", "site"})
    fields |= {"body": canonical.digest(body), "body_size": len(body), "request": canonical.digest(envelope)}
    return wire.seal(Reply.model_validate(fields | about), body, key(of.site))


def exchange() -> dict[str, bytes]:
    """Name -> frame, in the order in which they travel."""
    approvals = tuple(map(approval, SITES))
    opens = {site: request("open", site, number, approvals=approvals) for number, site in enumerate(SITES)}
    seats = {site: reply(opens[site], mask_key=MASKS.keys[site]) for site in SITES}
    frames = {"open.request": opens["site-a"], "open.reply": seats["site-a"]}
    texts = tuple(wire.split(frame)[0].decode() for frame in seats.values())
    deals = {}
    for number, site in enumerate(SITES):
        asked = request("deal", site, 3 + number, seats=texts)
        deals[site] = reply(asked, MASKS.deals[site])
        if site == "site-a":
            frames["deal.request"], frames["deal.reply"] = asked, deals[site]
    frames["join.request"] = request("join", "site-a", 6, wire.join(deals.values()))
    frames["join.reply"] = reply(frames["join.request"])
    frames["step.request"] = request("step", "site-a", 7, wire.pack(MODEL))
    with tempfile.TemporaryDirectory() as folder, Log(Path(folder), key("site-a", "log"), "genopact/site-a") as log:
        frames["step.reply"] = _step_reply(frames["step.request"], approvals[0].encode(), log)
        frames["unmask.request"] = request("unmask", "site-a", 8, wire.join([wire.split(frames["step.reply"])[0]]))
        frames["unmask.reply"] = reply(frames["unmask.request"], MASKS.reveals["site-a"])
        aggregate = statements.Aggregate(
            at=NOW, study=STUDY.hash, run=RUN, round=0, attempt=0, step="gradient-1",
            model_in=canonical.digest(wire.pack(MODEL)),
            sites=SITES, receipts=tuple(canonical.digest(MASKS.uploads[site]) for site in SITES),
            total=canonical.digest(MASKS.total), model_out=canonical.digest(wire.pack(NEXT)),
        )  # fmt: skip
        signed = statements.sign(aggregate, key("coordinator")).decode()
        frames["finish.request"] = request(
            "finish", "site-a", 9, wire.pack(NEXT) + MASKS.total, aggregate=signed, total_size=len(MASKS.total)
        )
        entries, checkpoint = log.export()
        frames["finish.reply"] = reply(frames["finish.request"], pack([checkpoint]) + entries)
    return frames


def _step_reply(asked: bytes, approval: bytes, log: Log) -> bytes:
    work = {
        "study": STUDY.hash,
        "run": RUN,
        "round": 0,
        "attempt": 0,
        "site": "site-a",
        "at": NOW,
        "step": "gradient-1",
    }
    work["request"] = canonical.digest(wire.split(asked)[0])
    model_in = canonical.digest(wire.pack(MODEL))
    intent = statements.sign(
        statements.Intent.model_validate(
            work | {"decision_root": "c" * 64, "ledger_root": "d" * 64, "model_in": model_in, "mechanism": FACT,
            "nonce": f"{7:032x}"}
        ),
        key("site-a"),
    )  # fmt: skip
    log.append(approval)
    proof = log.proof(log.append(intent))
    receipt = statements.Receipt.model_validate(
        work | {"intent": canonical.digest(intent), "update": canonical.digest(MASKS.uploads["site-a"]),
        "outcome": "released", "prev": statements.FIRST}
    )  # fmt: skip
    log.append(statements.sign(receipt, key("site-a")))
    return reply(asked, MASKS.uploads["site-a"], intent=intent.decode(), proof=proof.decode())


if __name__ == "__main__":
    for name, frame in exchange().items():
        (FOLDER / f"{name}.frame").write_bytes(frame)

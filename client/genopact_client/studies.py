"""The studies that this site has read and approved."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from genopact_shared import canonical, durable
from genopact_shared.approval import check_approval
from genopact_shared.errors import require
from genopact_shared.statements import Approval
from genopact_shared.study import Study, parse_study


class Approved(NamedTuple):
    """A study, the approval of this site, and its envelope."""

    study: Study
    approval: Approval
    envelope: bytes


class Studies:
    """A folder with one folder a study, named by its hash: `study.json` and `approval.json`."""

    def __init__(self, path: Path, site: str) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path, self._site = path, site

    def approve(self, study: Study, envelope: bytes) -> Approved:
        """Keep an approval of this site.

        Raises:
            GenopactError: APPROVAL_INVALID, SIGNATURE_INVALID, STUDY_NOT_A_PARTY.
        """
        approval = check_approval(envelope, study)
        require(approval.site == self._site, "APPROVAL_INVALID", "the approval of another site")
        folder = self._path / study.hash
        folder.mkdir(mode=0o700, exist_ok=True)
        durable.replace(folder / "study.json", study.canonical)
        durable.replace(folder / "approval.json", envelope)
        return Approved(study, approval, envelope)

    def approved(self, study_hash: str) -> Approved:
        """The approved study of that hash; signature and hash are checked again at every call.

        Raises:
            GenopactError: STUDY_NOT_APPROVED, APPROVAL_INVALID, SIGNATURE_INVALID.
        """
        folder = self._path / study_hash
        require(len(study_hash) == 64 and (folder / "approval.json").exists(), "STUDY_NOT_APPROVED")
        text = (folder / "study.json").read_bytes()
        require(canonical.digest(text) == study_hash, "APPROVAL_INVALID", "the stored study was changed")
        study, envelope = parse_study(text), (folder / "approval.json").read_bytes()
        return Approved(study, check_approval(envelope, study), envelope)

    def __iter__(self) -> Iterator[Approved]:
        for folder in sorted(self._path.iterdir()):
            if (folder / "approval.json").exists():
                yield self.approved(folder.name)

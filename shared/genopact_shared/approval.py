"""A site's approval of a study, checked alike by the site, the other sites, the coordinator and the auditor."""

from genopact_shared.errors import GenopactError
from genopact_shared.keys import VerifyKey
from genopact_shared.statements import Approval, parse
from genopact_shared.study import Study


def check_approval(envelope: bytes, study: Study) -> Approval:
    """The approval of an envelope, if the approver of the site it names signed it for this study.

    Raises:
        GenopactError: APPROVAL_INVALID, and those of `statements.parse`.
    """
    keys = {party.name: VerifyKey.from_hex(party.approver) for party in study.parties}
    approval = parse(envelope, keys.values())
    if not isinstance(approval, Approval) or approval.study != study.hash or approval.site not in keys:
        raise GenopactError("APPROVAL_INVALID")
    parse(envelope, [keys[approval.site]])
    return approval

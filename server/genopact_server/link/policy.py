"""Who may do what at the SuperLink, as the plug-ins that Flower has for it."""

from collections.abc import Sequence

from fastapi import HTTPException, Request
from flwr.common.constant import ACCESS_TOKEN_KEY, SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supercore.auth.typing import AccountInfo
from flwr.supercore.constant import ActionType
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.typing import ActionContext
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.dependencies.linkstate import get_linkstate
from flwr.superlink.federation import NoOpFederationManager

from genopact_server.link.accounts import Accounts, Membership


class SignIn(NoOpControlAuthnPlugin):
    """Bearer tokens of the accounts file; without one, no Control request is read."""

    def __init__(self, accounts: Accounts) -> None:
        super().__init__()
        self._accounts = accounts

    def validate_tokens_in_metadata(
        self, metadata: Sequence[tuple[str, str | bytes]]
    ) -> tuple[bool, AccountInfo | None]:
        """Whether the token is one of ours, and whose."""
        token = dict(metadata).get(ACCESS_TOKEN_KEY, "")
        account = self._accounts.of_token(token) if isinstance(token, str) and token else None
        if account is None:
            return False, None
        return True, AccountInfo(flwr_aid=account.name, account_name=account.name)

    def refresh_tokens(self, metadata: object) -> tuple[None, None]:  # noqa: ARG002
        """Tokens are not refreshed."""
        return None, None


class Studies(NoOpFederationManager):
    """A federation is a study hash; its nodes are the study's members; only operators command."""

    def __init__(self, accounts: Accounts, membership: Membership) -> None:
        super().__init__()
        self._accounts, self._membership = accounts, membership

    def exists(self, federation_id: str) -> bool:
        """Whether the study is registered."""
        return federation_id in self._membership.registry().studies

    def has_member(self, flwr_aid: str, federation_id: str) -> bool:
        """Whether the account may see and command the study's runs."""
        return self.exists(federation_id) and self._accounts.is_operator(flwr_aid)

    def filter_nodes(self, node_ids: set[int], federation_id: str) -> set[int]:
        """Those of the nodes that are members, and the SuperLink itself, which Flower counts as a node."""
        return node_ids & {SUPERLINK_NODE_ID, *self._membership.nodes(federation_id).values()}

    def has_node(self, node_id: int, federation_id: str) -> bool:
        """Whether the node is a member."""
        return node_id in self._membership.nodes(federation_id).values()

    def get_simulation_config(self, federation_id: str) -> None:
        """Never a simulation."""

    def can_execute(self, flwr_aid: str, action: ActionType, context: ActionContext) -> None:  # noqa: ARG002
        """Operators may; raise for everybody else."""
        if not self._accounts.is_operator(flwr_aid):
            raise FlowerError(ApiErrorCode.FEDERATION_NOT_FOUND_OR_NO_PERMISSION, "not an operator")


async def own_name_only(request: Request) -> object:
    """Flower's state for a Fleet request, once it is sure that no site replies in the name of another.

    Flower authenticates the node that sends a batch of replies, not the sender that each reply claims.
    """
    body = getattr(request.state, "protobuf_request", None)
    if isinstance(body, PushMessagesRequest) and any(
        message.metadata.src_node_id != body.node.node_id for message in body.messages_list
    ):
        raise HTTPException(401)
    return get_linkstate(request)

"""Commands to the SuperLink, in process: register a site, submit a run, see who is online."""

import hashlib
import io
import zipfile
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto import control_pb2 as ask
from flwr.proto.fab_pb2 import Fab
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from genopact_server.link.accounts import Membership
from genopact_shared.channel import http_errors
from genopact_shared.errors import GenopactError, replacing, require

_PROJECT = Path(__file__).with_name("project.toml").read_bytes()


class _Bearer(NamedTuple):
    token: str

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Sign in."""
        if self.token:
            context.request.headers["authorization"] = f"Bearer {self.token}"
        return call_next(context)


class Control(AbstractContextManager["Control"]):
    """An operator's connection to the SuperLink at `address` (host:port); a context manager.

    Methods raise LINK_UNREACHABLE, LINK_SIGN_IN, LINK_REFUSED, MEMBERSHIP_INVALID.
    """

    def __init__(self, address: str, root: bytes, token: str, membership: Membership) -> None:
        self._membership = membership
        connect = ControlHttpClient.from_server_address
        self._client = connect(address, insecure=False, root_certificates=root, interceptors=[_Bearer(token)])

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def register_site(self, name: str, public_key: bytes) -> int:
        """Bind a site name to its node's public key (PEM) for good; return the node's number. May be repeated."""
        pem = _normal(public_key)
        node_id = {node.public_key: node.node_id for node in self._nodes()}.get(pem)
        if node_id is None:
            with http_errors():
                node_id = self._client.RegisterNode(ask.RegisterNodeRequest(public_key=pem)).node_id
        self._membership.add_site(name, pem, node_id)
        return node_id

    def submit(self, study: bytes, study_hash: str, sites: Iterable[str]) -> int:
        """Start a run of the study file `study` for its members and return the run's number."""
        self._membership.set_study(study_hash, sites)
        content = bundle(study)
        fab = Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content)
        with http_errors():
            run_id = self._client.StartRun(ask.StartRunRequest(fab=fab, federation=study_hash)).run_id
        require(run_id, "LINK_REFUSED", "no run was started")
        return run_id

    def stop(self, run_id: int) -> None:
        """End a run; the courier's, not the training's."""
        with http_errors():
            self._client.StopRun(ask.StopRunRequest(run_id=run_id))

    def status(self, run_id: int) -> str:
        """pending, starting, running, or how it finished: completed, failed, stopped."""
        with http_errors():
            run = self._client.ListRuns(ask.ListRunsRequest(run_id=run_id)).run_dict[run_id]
        return str(run.status.sub_status or run.status.status)

    def sites(self) -> dict[str, bool]:
        """All registered sites by name, and whether the SuperLink has heard of each lately."""
        online = {node.node_id: node.status == "online" for node in self._nodes()}
        sites = self._membership.registry().sites
        return {name: online.get(site.node_id, False) for name, site in sorted(sites.items())}

    def _nodes(self) -> list[NodeInfo]:
        with http_errors():
            return list(self._client.ListNodes(ask.ListNodesRequest()).nodes_info)


def bundle(study: bytes) -> bytes:
    """The app bundle of a run: a project file, the study file and a table of contents; the same bytes every time."""
    files = {"pyproject.toml": _PROJECT, "policies/study.yaml": study}
    lines = [f"{name},{hashlib.sha256(data).hexdigest()},{len(data) * 8}" for name, data in files.items()]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in {**files, ".info/CONTENT": "\n".join(lines).encode()}.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _normal(public_key: bytes) -> bytes:
    """The same key in the form in which nodes send it. Raises KEY_INVALID."""
    with replacing(ValueError, GenopactError("KEY_INVALID", "node key")):
        key = serialization.load_pem_public_key(public_key)
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise GenopactError("KEY_INVALID", "the node key is an EC P-384 key")
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

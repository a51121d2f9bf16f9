"""The key with which a site's node signs in: EC P-384, made at the site; worthless for anything but the courier."""

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from genopact_shared import durable
from genopact_shared.errors import GenopactError, replacing


def create(path: Path) -> ec.EllipticCurvePrivateKey:
    """Make a key and write it to `path`, mode 0600. Raises FileExistsError rather than replace a key.

    The file has OpenSSH's format, which a stock SuperNode reads too.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    form = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH
    durable.create(path, key.private_bytes(*form, serialization.NoEncryption()))
    return key


def load(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read the key that `create` wrote. Raises KEY_MISSING, KEY_EXPOSED or KEY_INVALID."""
    pem = durable.read_secret(path)
    with replacing((ValueError, UnsupportedAlgorithm), GenopactError("KEY_INVALID", str(path))):
        key = serialization.load_ssh_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        raise GenopactError("KEY_INVALID", "the node key is an EC P-384 key")
    return key


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """What the coordinator registers: SubjectPublicKeyInfo, PEM."""
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

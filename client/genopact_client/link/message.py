"""The one layout of a courier message, as Flower's types: one ConfigRecord with one envelope, nothing else."""

from flwr.app import ConfigRecord, Error, Message, RecordDict

from genopact_shared.channel import RECORD, pack, unpack
from genopact_shared.errors import GenopactError, require

UNAVAILABLE = "SITE_UNAVAILABLE"


def envelope_of(message: Message) -> bytes:
    """The envelope that `message` carries. Raises EXCHANGE_BROKEN for any other content, EXCHANGE_TOO_LARGE."""
    if not message.has_content() or list(message.content) != [RECORD]:
        raise GenopactError("EXCHANGE_BROKEN", "a courier message has one record")
    record = message.content[RECORD]
    require(isinstance(record, ConfigRecord), "EXCHANGE_BROKEN", "the record is not a ConfigRecord")
    return unpack(record)


def reply_to(message: Message, envelope: bytes) -> Message:
    """A reply with `envelope`; empty bytes make the wire's one refusal, which is Flower's error without a reason."""
    if not envelope:
        return Message(Error(code=0, reason=UNAVAILABLE), reply_to=message)
    return Message(RecordDict({RECORD: ConfigRecord(pack(envelope), keep_input=False)}), reply_to=message)

"""Decrypts a client's Initial packets. Their keys are public: they derive from the destination id of the first one.

The protection (RFC 9001 5.2, RFC 9369 3.3) guards against accidental modification, not against observers: everyone who
sees a client's first packet can derive its keys, which is required to read the server name. The keys are the same for
all Initials of the client, although it addresses later ones to an id that the server chose; only after a Retry does the
client start over, with keys from the new id.

``cryptography`` is imported when the first keys are derived, since only policies that read QUIC need it.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, NamedTuple

from datapath.protocols.quic_packets import DRAFTS, VERSION_1, VERSION_2, LongPacket

KEYS_SIZE: Final = 4 << 10
"""Bytes of memory that one :class:`InitialKeys` takes, most of them in OpenSSL (3.6 KB measured)."""
_KEY: Final = 16
"""Bytes of an AES-128 key."""
_NONCE: Final = 12
"""Bytes of an AEAD_AES_128_GCM nonce (RFC 5116 5.1)."""
_SAMPLE: Final = 16
"""Bytes of ciphertext that header protection takes (RFC 9001 5.4.3)."""
_SAMPLE_AT: Final = 4
"""From the packet number's first byte: it is sampled as if the number had its largest size (RFC 9001 5.4.2)."""


class _Version(NamedTuple):
    salt: bytes
    label: bytes


_VERSION_1: Final = _Version(bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"), b"quic")
_DRAFT_29: Final = _Version(bytes.fromhex("afbfec289993d24c9e9786f19c6111e04390a899"), b"quic")
_VERSIONS: Final = {
    VERSION_1: _VERSION_1,
    VERSION_2: _Version(bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"), b"quicv2"),
    **dict.fromkeys(DRAFTS[:4], _DRAFT_29),
    **dict.fromkeys(DRAFTS[4:], _VERSION_1),
}
"""RFC 9001 5.2, RFC 9369 3.3, and draft-ietf-quic-tls 5.2 of the same number: -33 brought version 1's salt."""


class InitialKeys:
    """The keys of one client's Initials; ``version`` and ``destination_id`` are those of its first one.

    Raises ImportError where ``cryptography`` is not installed, and KeyError for versions that are not read.
    """

    __slots__ = ("_aead", "_header_protection", "_iv", "_no_tag")

    def __init__(self, version: int, destination_id: bytes) -> None:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        salt, label = _VERSIONS[version]
        secret = _expand(hmac.digest(salt, destination_id, "sha256"), b"client in", hashlib.sha256().digest_size)
        self._no_tag = InvalidTag
        self._aead = AESGCM(_expand(secret, label + b" key", _KEY))
        self._iv = int.from_bytes(_expand(secret, label + b" iv", _NONCE), "big")
        # ECB of single blocks is what RFC 9001 5.4.3 asks for; it has no state, so one encryptor serves all packets.
        protection = Cipher(algorithms.AES(_expand(secret, label + b" hp", _KEY)), modes.ECB())
        self._header_protection = protection.encryptor()

    def open(self, packet: LongPacket) -> bytes | None:
        """The frames in an Initial; None when these are not its keys, or it was damaged.

        The packet number is taken as it is written, without the bits that are left out once there have been many
        (RFC 9000 A.3): a client that is still at its ClientHello has not sent more than a byte can count.
        """
        data, at = packet.data, packet.number_at
        mask = self._header_protection.update(data[at + _SAMPLE_AT : at + _SAMPLE_AT + _SAMPLE])
        first = data[0] ^ mask[0] & 0x0F
        size = (first & 0x03) + 1
        number = bytes(a ^ b for a, b in zip(data[at : at + size], mask[1:], strict=False))
        nonce = self._iv ^ int.from_bytes(number, "big")
        header = bytes([first]) + data[1:at] + number
        try:
            return self._aead.decrypt(nonce.to_bytes(_NONCE, "big"), data[at + size :], header)
        except self._no_tag:
            return None


def _expand(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label with an empty context (RFC 8446 7.1), for no more than one block of SHA-256."""
    label = b"tls13 " + label
    info = size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
    return hmac.digest(secret, info + b"\x01", "sha256")[:size]

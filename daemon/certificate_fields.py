"""Fields of certificates that more than one CA of ours writes (RFC 5280 4.2.1)."""

from __future__ import annotations

import ipaddress

from cryptography import x509


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """Of a CA, which signs certificates and revocation lists; else of a server or client, which signs handshakes."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def general_name(name: str) -> x509.GeneralName:
    """A DNS name, or an address if it is one."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)

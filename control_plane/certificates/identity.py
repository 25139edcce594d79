"""Who an agent is, as its certificate says it: an X.509-SVID of SPIFFE. Pure.

https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md: one URI, of which nothing else is needed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

_PATH: Final = re.compile(r"/tenant/([a-z0-9-]{1,63})/cluster/([a-z0-9-]{1,63})/node/([a-z0-9.-]{1,253})")


class IdentityError(Exception):
    """A certificate is none of an agent's."""


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """A node's agent. ``enrolment`` is the serial of the certificate it was given when it joined: all that follow name
    it in their subject's serialNumber, so that none of them outlives a revocation."""

    tenant: str
    cluster: str
    node: str
    enrolment: str

    @property
    def agent(self) -> str:
        """Its name within the tenant: CLUSTER/NODE."""
        return f"{self.cluster}/{self.node}"

    def uri(self, trust_domain: str) -> str:
        """Its SPIFFE ID. Clusters have their names within a tenant, hence the tenant is in it."""
        return f"spiffe://{trust_domain}/tenant/{self.tenant}/cluster/{self.cluster}/node/{self.node}"


def agent_of(certificate: x509.Certificate, trust_domain: str) -> AgentIdentity:
    """Whose certificate it is; that a root has signed it was checked before. Raises :class:`IdentityError`."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        [uri] = names.get_values_for_type(x509.UniformResourceIdentifier)
        [enrolment] = certificate.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)
    except (x509.ExtensionNotFound, ValueError):
        raise IdentityError("It has no name of an agent.") from None
    prefix = f"spiffe://{trust_domain}"
    found = _PATH.fullmatch(uri.removeprefix(prefix)) if uri.startswith(prefix) else None
    if found is None:
        raise IdentityError(f"{uri[:300]} is no agent of the trust domain {trust_domain}.")
    tenant, cluster, node = found.groups()
    return AgentIdentity(tenant, cluster, node, str(enrolment.value))

"""How the agent gets its certificate: it proves itself once, and renews from then on."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Final

import trio

from daemon.log import Logger
from fleet_api.agent_pb2 import Credentials, EnrolRequest
from fleet_api.limits import ENROL
from node_agent.fleet.errors import EnrolmentError
from node_agent.fleet.fleet_settings import Address, FleetSettings, JoinProof
from node_agent.fleet.identity import (
    AgentCredentials,
    IdentityFiles,
    credentials_for,
    digest_of,
    expired,
    request_for,
    root_with,
    tls_to,
    when,
)
from node_agent.fleet.transport import shown_chain, unary
from traffic_policy.errors import ConfigError

_REMEDY: Final = (
    "Issue a join token (podlane join-token) and give it by --join-token, or name a ServiceAccount's token by "
    "--service-account-token. What was said last stays in force meanwhile."
)

log = Logger()


class Enrolment:
    """Knows the agent's credentials."""

    def __init__(self, settings: FleetSettings, files: IdentityFiles) -> None:
        self.credentials: AgentCredentials | None = None
        self._settings = settings
        self._files = files
        self._refused: AgentCredentials | None = None

    async def load(self) -> None:
        """Take up what an earlier agent had."""
        found = await trio.to_thread.run_sync(self._files.load)
        if found is None:
            return
        named = (self._settings.cluster.rpartition("/")[2], self._settings.node)
        for ours, theirs in zip(named, found.cluster_and_node, strict=True):
            if ours and theirs and ours != theirs:
                log.warning("the certificate is another agent's", wanted=ours, has=theirs)
                return
        self.credentials = found

    def refused(self) -> None:
        """The control plane will not have these credentials."""
        self._refused = self.credentials

    async def valid(self, address: Address) -> AgentCredentials:
        """Credentials that can be used, by joining at this address if need be. Raises :class:`EnrolmentError`,
        :class:`ConfigError`, :class:`UnreachableError`, :class:`CallEndedError`."""
        known = self.credentials
        if known is not None and not expired(known, time.time()) and known is not self._refused:
            return known
        if known is None:
            reason = "The agent has no certificate yet."
        elif known is self._refused:
            reason = "The control plane refuses the agent's certificate."
        else:
            reason = f"The agent's certificate has expired, at {when(known.expires)}."
        joined = await self._join(address, reason)
        if joined is None:
            assert known is not None
            return known
        await self.keep(joined)
        log.info("the agent has joined", control_plane=str(address), until=when(joined.expires))
        return joined

    async def keep(self, credentials: AgentCredentials) -> None:
        """Use these from now on, also after a restart."""
        self.credentials, self._refused = credentials, None
        try:
            await trio.to_thread.run_sync(self._files.save, credentials)
        except OSError as error:
            log.error(
                "the certificate cannot be kept: after a restart the agent has to join again", error=error.strerror
            )

    async def _join(self, address: Address, reason: str) -> AgentCredentials | None:
        """None: there is nothing new to prove it by, and a certificate that was refused may be asked again."""
        token = await trio.to_thread.run_sync(self._settings.read_join_token)
        account = await trio.to_thread.run_sync(self._settings.read_service_account_token)
        if token is not None and self.credentials is not None and digest_of(token.text) == self.credentials.token:
            token = None  # it is spent
        if token is None and account is None:
            if self.credentials is not None and not expired(self.credentials, time.time()):
                return None
            raise EnrolmentError(f"{reason} {_REMEDY}")
        roots = await self._roots(address, token)
        try:
            key = await trio.to_thread.run_sync(self._files.joining_key)
        except OSError as error:
            raise ConfigError(f"The agent's key cannot be kept: {error.strerror}. Name a folder by --data.") from None
        asked = EnrolRequest(cluster=self._settings.cluster, node=self._settings.node, csr=request_for(key))
        if token is not None:
            asked.join_token = token.text
        else:
            asked.service_account_token = account or ""
        answer = await unary(address, tls_to(roots), ENROL, asked.SerializeToString())
        made = credentials_for(Credentials.FromString(answer), [key], roots)
        return replace(made, token=digest_of(token.text)) if token is not None else made

    async def _roots(self, address: Address, token: JoinProof | None) -> str:
        roots = await trio.to_thread.run_sync(self._settings.read_ca)
        if roots is None and token is not None:
            chain = await shown_chain(address)
            roots = await trio.to_thread.run_sync(partial(root_with, token.root_digest, chain))
        if roots is None and self.credentials is not None:
            roots = self.credentials.roots
        if roots is None:
            raise EnrolmentError("Nothing says which control plane to trust. Name its root by --control-plane-ca.")
        return roots

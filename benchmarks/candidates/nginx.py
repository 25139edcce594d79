"""nginx's stream module with ssl_preread; it cannot mark, so the class is the address that it connects from."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks.candidates.base import ALL, Ability, Candidate, Running, said_version, serving
from benchmarks.capture import PORT, marked_by_source, rules, source_addresses
from benchmarks.policies import BenchPolicy
from benchmarks.stage import Stage
from podlane.netns.tools import find_tool

_MODULE: Final = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


_IP_TRANSPARENT: Final = 19
"""linux/in.h; the socket module has no name for it."""
_BACKLOG: Final = 8192


class NginxStream(Candidate):
    """A TCP proxy that copies through user space."""

    name = "nginx-stream"
    title = "nginx stream"

    @property
    def abilities(self) -> frozenset[Ability]:
        return ALL - {Ability.LANES, Ability.MANY_CLASSES}

    def missing(self) -> str | None:
        if find_tool("nginx") is None:
            return "Install it: apt-get install nginx-light libnginx-mod-stream"
        return None if _MODULE.exists() else "Its stream module is missing: apt-get install libnginx-mod-stream"

    def version(self) -> str:
        return said_version(find_tool("nginx") or "nginx", "-v").removeprefix("nginx version: nginx/")

    @contextmanager
    def running(self, stage: Stage, policy: BenchPolicy) -> Iterator[Running]:
        path = stage.folder / "stream.conf"
        with ExitStack() as stack:
            stack.enter_context(stage.shaped(policy))
            stack.enter_context(rules(stage, policy))
            addresses = source_addresses(stage, policy)
            stack.enter_context(marked_by_source(stage, policy, addresses))
            path.write_text(configuration(stage.folder, policy, addresses))
            listener = stack.enter_context(_transparent_listener(stage))
            yield stack.enter_context(
                serving(
                    stage,
                    self.name,
                    ["nginx", "-p", str(stage.folder), "-c", str(path)],
                    env={**os.environ, "NGINX": f"{listener.fileno()};"},
                    pass_fds=[listener.fileno()],
                )
            )


@contextmanager
def _transparent_listener(stage: Stage) -> Iterator[socket.socket]:
    """A listening socket that TPROXY may hand connections to.

    nginx has no option for that, but takes over sockets that a running nginx passes on in the variable NGINX when its
    program is replaced; so may we.
    """
    with stage.pod.namespace.entered():
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)
        listener.bind(("0.0.0.0", PORT))
        listener.listen(_BACKLOG)
        yield listener


def configuration(folder: Path, policy: BenchPolicy, addresses: dict[str | None, str]) -> str:
    """One worker. It listens on every address: nginx asks a connection where it was going only if the listener's own
    address does not say.
    """
    target = policy.target
    return f"""\
load_module {_MODULE};
daemon off; user root; worker_processes 1;
pid {folder}/stream.pid; error_log {folder}/nginx-stream.log;
events {{ worker_connections 30000; }}
stream {{
  access_log off; proxy_timeout 1h; tcp_nodelay on;
  map $ssl_preread_server_name $source {{ {target.host} {addresses[target.name]}; default {addresses[None]}; }}
  map $ssl_preread_server_name $original {{ default $server_addr:$server_port; }}
  server {{
    listen {PORT} backlog={_BACKLOG}; ssl_preread on;
    proxy_bind $source; proxy_pass $original;
  }}
}}
"""

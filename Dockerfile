# One image for the sidecar, the injector and the node agent. `docker build --tag podlane .`
# Both stages have the same Debian, whose Python the environment of the first one is made for.

FROM debian:trixie-slim AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends clang gcc libbpf-dev libc6-dev python3 python3-pip python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build
RUN python3 -m venv --without-pip /opt/podlane
# What Podlane needs changes less often than Podlane: a layer of its own. Wheels only: nothing is compiled for Python.
COPY pyproject.toml constraints.txt ./
RUN python3 -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
print(*p["dependencies"], sep="\n")' >requirements.txt \
 && python3 -m pip --python /opt/podlane install --no-cache-dir --no-compile --only-binary :all: \
      --constraint constraints.txt --requirement requirements.txt
COPY . .
# Compiled here, for good: the root file system is read-only where it runs, and the sources do not change under it, so
# that the interpreter need not compare times at each start.
RUN python3 -m pip --python /opt/podlane install --no-cache-dir --no-compile --no-deps . \
 && python3 -m compileall -q -f -j 0 --invalidation-mode unchecked-hash /opt/podlane/lib
# The agent copies it to nodes, which may have another libc or none: static.
RUN gcc -static -Os -s -Wall -Wextra -Werror -o /opt/podlane/bin/podlane-cni node_agent/cni/podlane-cni.c


FROM debian:trixie-slim
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Podlane" \
      org.opencontainers.image.description="Traffic lanes for every Pod: sidecar, injector and node agent" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
# libbpf1 loads the programs of datapath: ebpf.
# iptables has the nft and the legacy programs; the sidecar takes those that the Pod's namespace uses.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends iptables libbpf1 python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/debconf/*-old /var/log/apt /var/log/dpkg.log /var/log/alternatives.log
COPY --from=build /opt/podlane /opt/podlane
# PYTHONMALLOC: Python's own allocator would keep what a crowd of connections took (sidecar/proxy/memory_trim.py).
ENV PATH=/opt/podlane/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONMALLOC=malloc \
    PYTHONDONTWRITEBYTECODE=1
# By number, so that Kubernetes can tell that it is not root (runAsNonRoot). The sidecar says runAsUser: 0, since
# capabilities that a Pod adds reach no other user's process; see docs/how-to/install.md.
USER 65532:65532
ENTRYPOINT ["podlane"]
CMD ["--help"]

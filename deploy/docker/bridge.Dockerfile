# syntax=docker/dockerfile:1
# The bridge. Build it from the repository's root, after `make wheel`:
#
#   docker build -f deploy/docker/bridge.Dockerfile -t pxbridge .
#
# BASE is any Debian-like image with Python 3.11 or newer, for another registry or a base of your own.
ARG BASE=python:3.13-slim

# The environment. Its tools stay behind: the image that runs holds no pip and no compiler.
FROM ${BASE} AS environment
COPY dist/*.whl /tmp/wheels/
# The wheel is built for every Python from 3.11 on. Compiling to bytecode is done here, because the image's root
# is read-only when it runs.
RUN set -eu; \
    python3 -m venv /opt/tools; \
    python3 -m venv --without-pip /opt/pxbridge; \
    set -- /tmp/wheels/*.whl; \
    [ $# = 1 ] || { echo "dist/ holds $# wheels; \`make wheel\` leaves one" >&2; exit 1; }; \
    /opt/tools/bin/python -m pip --python /opt/pxbridge/bin/python install --no-cache-dir --disable-pip-version-check \
        "${1}[redis]"; \
    find /opt/pxbridge -depth -type d -name tests -path '*/numpy/*' -exec rm -rf {} +

FROM ${BASE}
COPY --from=environment /opt/pxbridge /opt/pxbridge
# An owner of its own, by number: Kubernetes checks `runAsNonRoot` by the number. The folder is the state's.
RUN install -d -m 0700 -o 10001 -g 10001 /var/lib/pxbridge
ENV PATH=/opt/pxbridge/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PXBRIDGE_HOST=0.0.0.0 \
    PXBRIDGE_STATE_DIR=/var/lib/pxbridge
USER 10001:10001
WORKDIR /var/lib/pxbridge
VOLUME /var/lib/pxbridge
# Calls, and the operator's console, which listens on the container's loopback unless a login is set.
EXPOSE 5050 5051
# Alive, not ready: a bridge without an engine must not be restarted, because its calls wait for one. The port and
# TLS are those of the environment. The certificate is not for 127.0.0.1, so it is not checked.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, ssl, urllib.request as u; e = os.environ.get; u.urlopen(('https' if e('PXBRIDGE_TLS_CERT_FILE') else 'http') + '://127.0.0.1:' + (e('PXBRIDGE_PORT') or '5050') + '/livez', timeout=2, context=ssl._create_unverified_context())"]
# It drains: live calls go on for PXBRIDGE_DRAIN_S (60 s), so give the container longer than that to stop.
STOPSIGNAL SIGTERM
ENTRYPOINT ["pxbridge"]
CMD []

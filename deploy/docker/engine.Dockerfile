# syntax=docker/dockerfile:1
# PersonaPlex itself, `pxbridge engine`. Build it from the repository's root, after `make wheel`:
#
#   docker build -f deploy/docker/engine.Dockerfile -t pxbridge-engine .
#
# BASE is a Debian or Ubuntu with the CUDA runtime. EXTRA is what the wheel is installed with: `engine` brings
# torch (5.5 GB). An empty EXTRA leaves it out, to check the rest.
ARG BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04

FROM ${BASE} AS python
# hadolint ignore=DL3008
RUN if ! python3 -c 'import ensurepip' 2>/dev/null; then \
        apt-get update \
        && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
        && rm -rf /var/lib/apt/lists/*; \
    fi

FROM python AS environment
ARG EXTRA=engine
COPY dist/*.whl /tmp/wheels/
RUN set -eu; \
    python3 -m venv /opt/tools; \
    python3 -m venv --without-pip /opt/pxbridge; \
    set -- /tmp/wheels/*.whl; \
    [ $# = 1 ] || { echo "dist/ holds $# wheels; \`make wheel\` leaves one" >&2; exit 1; }; \
    /opt/tools/bin/python -m pip --python /opt/pxbridge/bin/python install --no-cache-dir --disable-pip-version-check \
        "${1}${EXTRA:+[${EXTRA}]}"

FROM python
COPY --from=environment /opt/pxbridge /opt/pxbridge
RUN install -d -m 0700 -o 10001 -g 10001 /var/lib/pxbridge
# The checkpoint is downloaded once, into the volume.
ENV PATH=/opt/pxbridge/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/var/lib/pxbridge \
    HF_HOME=/var/lib/pxbridge/huggingface \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /var/lib/pxbridge
VOLUME /var/lib/pxbridge
EXPOSE 8998
# The port answers once the checkpoint is read. The first start downloads 17 GB before that.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30m --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8998/livez', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["pxbridge", "engine"]
CMD ["--host", "0.0.0.0"]

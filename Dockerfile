# csplade in a container; `make image` builds it, docs/operations.md says how to run it.
#
#   VARIANT   BASE                                      what it is
#   cpu       debian:bookworm-slim                      a server without a GPU
#   cpu-ray   debian:bookworm-slim                      likewise, with Ray
#   cuda      nvidia/cuda:13.0.0-base-ubuntu24.04       a server with a GPU, and Ray
#
# One base, so that a builder which builds every stage pulls only the one that is used.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS base
# tini is process 1: a signal that comes before Python can handle it still ends the container.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
ENV PATH=/opt/csplade/bin:$PATH \
    PYTHONUNBUFFERED=1


FROM base AS build
ARG VARIANT=cpu
# The CPU variants need torch's build for the CPU: name an index that offers it, or put the wheel
# into deploy/image.
ARG PIP_EXTRA_INDEX_URL=
ENV PIP_FIND_LINKS=/src/deploy/image
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
        $([ "$VARIANT" != cuda ] || echo gcc libc6-dev python3-dev) \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
WORKDIR /src
RUN python3 -m venv /opt/csplade
# Only what the next step reads, so that a change of the code does not repeat it.
COPY deploy/image/trim deploy/image/requirements-*.txt deploy/image/*.whl ./deploy/image/
RUN pip install --no-cache-dir --no-deps --require-hashes \
    -r deploy/image/requirements-${VARIANT}.txt \
    && deploy/image/trim ${VARIANT}
COPY . ./
RUN pip install --no-cache-dir --no-deps --no-index --no-build-isolation .
# The C module that Triton launches kernels with: the image itself has no compiler.
RUN mkdir -p /opt/csplade/cache \
    && TRITON_CACHE_DIR=/opt/csplade/cache/triton python deploy/image/triton_driver.py \
    && install -m 755 deploy/image/entrypoint /opt/csplade/bin/csplade-entrypoint \
    && cp deploy/image/sbom.py deploy/image/requirements-${VARIANT}.txt /opt/csplade/
# embedded: put the base of the embedded model into the image, so that the first start needs no
# network.
ARG MODEL=
RUN [ -z "$MODEL" ] || CSPLADE_CACHE=/opt/csplade/cache/csplade csplade model pull


FROM base
ARG VARIANT=cpu
COPY --from=build /opt/csplade /opt/csplade
# Anybody may write into /cache: the container runs under any user id.
RUN useradd --uid 10001 --create-home csplade \
    && install -d -m 1777 /cache \
    && install -d /data \
    && python /opt/csplade/sbom.py ${VARIANT} > /opt/csplade/sbom.json
USER csplade
WORKDIR /data
# Settings are those of deploy/csplade.yaml; arguments of the command override them.
ENV CSPLADE_INDEX=/data/index \
    CSPLADE_SERVER__HOST=0.0.0.0 \
    CSPLADE_SERVER__HEALTH_SOCKET=/dev/shm/csplade-health.sock \
    CSPLADE_HTTP__HOST=0.0.0.0 \
    CSPLADE_METRICS__HOST=0.0.0.0 \
    CSPLADE_CACHE=/cache/csplade \
    HF_HOME=/cache/huggingface \
    HOME=/cache \
    NUMBA_CACHE_DIR=/cache/numba \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor \
    TRITON_CACHE_DIR=/cache/triton
# Models, and what is compiled for this machine: a second start finds them here.
VOLUME /cache
# gRPC, HTTP (http.enabled) and /metrics.
EXPOSE 50051 8080 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-m", "csplade.service.grpc.probe"]
ENTRYPOINT ["/usr/bin/tini", "--", "csplade-entrypoint"]
CMD ["serve"]

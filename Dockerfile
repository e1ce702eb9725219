# syntax=docker/dockerfile:1
# csplade for a GPU: docker build -t csplade .
# csplade for a CPU: docker build -t csplade --build-arg VARIANT=cpu --build-arg TORCH_INDEX=ADDRESS .
#
# docker run --gpus all -p 50051:50051 -p 9464:9464 -v /path/to/index:/data/index:ro -v csplade-cache:/cache csplade

# cuda or cpu: what the image stands on.
ARG VARIANT=cuda

# The driver comes from the machine and torch's wheels bring CUDA's libraries; this has the rest of the runtime.
FROM nvidia/cuda:13.0.0-base-ubuntu24.04 AS base-cuda
FROM ubuntu:24.04 AS base-cpu

FROM base-${VARIANT} AS base
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 ca-certificates \
    && rm -rf /var/lib/apt/lists/*
ENV PATH=/opt/csplade/bin:$PATH \
    PYTHONUNBUFFERED=1


FROM base AS build
# Address of an index that has builds of torch for the CPU; without one the CPU image works too, but carries CUDA's libraries.
ARG TORCH_INDEX=
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-dev python3-venv gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
RUN python3 -m venv /opt/csplade
# What is large and seldom changes, first: torch, of all builds of the pinned version the CPU one where it is offered.
COPY constraints.txt ./
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt torch
COPY . ./
RUN pip install --no-cache-dir -c constraints.txt '.[ray,tracing]'
RUN TRITON_CACHE_DIR=/opt/csplade/triton python deploy/image/triton_driver.py \
    && mkdir -p /opt/csplade/triton


FROM base
RUN useradd --uid 10001 --create-home csplade \
    && install -d -o csplade /cache /data
COPY --from=build /opt/csplade /opt/csplade
# Triton keeps the kernels that it compiles beside the module that was compiled with the image.
COPY --from=build --chown=csplade /opt/csplade/triton /opt/csplade/triton
USER csplade
WORKDIR /data
# Settings are those of deploy/csplade.yaml; arguments of the command stand over them.
ENV CSPLADE_INDEX=/data/index \
    CSPLADE_SERVER__HOST=0.0.0.0 \
    CSPLADE_METRICS__HOST=0.0.0.0 \
    CSPLADE_CACHE=/cache/csplade \
    HF_HOME=/cache/huggingface \
    NUMBA_CACHE_DIR=/cache/numba \
    TRITON_CACHE_DIR=/opt/csplade/triton
# Models and what is compiled for this machine: a second start finds them here.
VOLUME /cache
# gRPC, and /metrics.
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-m", "csplade.service.grpc.probe", "localhost:50051"]
ENTRYPOINT ["csplade"]
CMD ["serve"]

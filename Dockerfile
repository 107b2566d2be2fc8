# syntax=docker/dockerfile:1.7
#
#   docker build --target cpu --tag endoscope:cpu .
#   docker build --target cuda --tag endoscope:cuda .
#
# The state is the volume /var/lib/endoscope, models are read from /models. Every setting of `endoscope serve`
# is an environment variable too, and `docker run ... serve --help` lists them.

FROM python:3.11.13-slim-bookworm AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /src
RUN python -m venv /opt/endoscope
ENV PATH=/opt/endoscope/bin:$PATH
COPY constraints.txt ./


FROM build AS build-cpu
# This index has torch without CUDA, which is a twentieth of the size. Its dependencies come with the rest.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --index-url "$TORCH_INDEX" "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml README.md ./
COPY client client
COPY server server
COPY model_zoo model_zoo
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt '.[server,web,telemetry]'


FROM build AS build-cuda
# Torch brings CUDA's libraries with it; the host adds the driver alone.
COPY deploy/constraints-cuda.txt deploy/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt --constraint deploy/constraints-cuda.txt \
    "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml README.md ./
COPY client client
COPY server server
COPY model_zoo model_zoo
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt --constraint deploy/constraints-cuda.txt '.[gpu,web,telemetry]'


FROM python:3.11.13-slim-bookworm AS runtime
RUN groupadd --gid 10001 endoscope \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/endoscope --shell /usr/sbin/nologin endoscope \
    && install --directory --owner 10001 --group 10001 /var/lib/endoscope \
    && install --directory /models
# What matplotlib writes goes to /tmp, so that the rest of the system may be read-only.
ENV PATH=/opt/endoscope/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    ENDOSCOPE_LISTEN=0.0.0.0:50051 \
    ENDOSCOPE_HEALTH_LISTEN=0.0.0.0:50052 \
    ENDOSCOPE_METRICS_LISTEN=0.0.0.0:9464 \
    ENDOSCOPE_LOG_FORMAT=json \
    ENDOSCOPE_STATE=/var/lib/endoscope \
    ENDOSCOPE_MODELS=/models
USER 10001:10001
WORKDIR /tmp
VOLUME ["/var/lib/endoscope"]
EXPOSE 50051 50052 9464
# The port of health checks stays in the clear when the other one speaks TLS.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["endoscope", "health", "--server", "127.0.0.1:50052", "--timeout", "4"]
ENTRYPOINT ["endoscope"]
CMD ["serve"]


FROM runtime AS cuda
COPY --from=build-cuda /opt/endoscope /opt/endoscope
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility


FROM runtime AS cpu
COPY --from=build-cpu /opt/endoscope /opt/endoscope

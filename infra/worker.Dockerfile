# Worker with CUDA: one process a GPU. Build from the root: docker build -f infra/worker.Dockerfile -t farm-worker .
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY farm ./farm
COPY migrations ./migrations
# The wheel of torch that PyPI serves for Linux carries its own CUDA runtime; only the driver comes from the host.
RUN python -m venv /opt/farm \
 && /opt/farm/bin/pip install --no-cache-dir -c constraints.txt ".[worker,postgres]"

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 farm && mkdir /data && chown farm /data
COPY --from=build /opt/farm /opt/farm
ENV PATH=/opt/farm/bin:$PATH FARM_DATA_DIR=/data PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER farm
VOLUME /data
# SIGTERM drains: the grace period of the orchestrator must be longer than FARM_DRAIN_SECONDS.
STOPSIGNAL SIGTERM
CMD ["farm", "worker", "--device", "cuda:0"]

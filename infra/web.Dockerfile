# Web and scheduler: no torch, no GPU. Build from the root: docker build -f infra/web.Dockerfile -t farm-web .
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY farm ./farm
COPY migrations ./migrations
RUN python -m venv /opt/farm \
 && /opt/farm/bin/pip install --no-cache-dir -c constraints.txt ".[postgres]"

FROM python:3.12-slim
RUN useradd --create-home --uid 10001 farm && mkdir /data && chown farm /data
COPY --from=build /opt/farm /opt/farm
COPY migrations /opt/farm/migrations
ENV PATH=/opt/farm/bin:$PATH FARM_DATA_DIR=/data PYTHONUNBUFFERED=1
USER farm
VOLUME /data
EXPOSE 8484
HEALTHCHECK --interval=10s --timeout=3s CMD python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8484/healthz', timeout=2)"
CMD ["farm", "web"]

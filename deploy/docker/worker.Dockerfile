# The feature worker: ticks.raw to ticks.features (and Parquet in /data/processed/live) to predictions.
# Built from the project's root: docker build -f deploy/docker/worker.Dockerfile -t volcast-worker .
# Behind a package mirror add: --secret id=pip_conf,src=pip.conf --secret id=uv_toml,src=uv.toml
FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    UV_NO_CACHE=1 \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /src

# What the project needs changes rarely: a layer of its own, every file checked against the lock.
COPY requirements-bootstrap.lock requirements.lock pyproject.toml ./
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=uv_toml,target=/etc/uv/uv.toml \
    python -m venv /bootstrap \
    && /bootstrap/bin/python -m pip install --quiet --require-hashes -r requirements-bootstrap.lock \
    && python -m venv --without-pip /opt/volcast \
    && /bootstrap/bin/uv pip install --quiet --python /opt/volcast/bin/python --compile-bytecode \
        --require-hashes -r pyproject.toml --extra pipeline -c requirements.lock

COPY README.md LICENSE ./
COPY proto proto
COPY common common
COPY cli cli
COPY clients clients
COPY pipeline pipeline
RUN /bootstrap/bin/hatchling build --target wheel --directory /dist \
    && /bootstrap/bin/uv pip install --quiet --python /opt/volcast/bin/python --compile-bytecode \
        --no-deps --no-index /dist/*.whl


FROM python:3.11-slim
RUN groupadd --gid 10001 volcast \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin volcast \
    && install --directory --owner=10001 --group=10001 /data
COPY --from=build /opt/volcast /opt/volcast
COPY deploy/docker/healthcheck.py /opt/volcast/healthcheck.py
ENV PATH=/opt/volcast/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    VOLCAST_LOG__FORMAT=json \
    VOLCAST_WORKER__PARQUET_DIR=/data/processed/live \
    VOLCAST_WORKER__METRICS_HOST=0.0.0.0
WORKDIR /app
USER 10001:10001
EXPOSE 9102
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "/opt/volcast/healthcheck.py", "worker"]
ENTRYPOINT ["volcast", "worker"]

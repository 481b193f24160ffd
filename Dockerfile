# Images of the worker and of the operator:
#   docker build --target worker -t headrace/worker:dev .
#   docker build --target operator -t headrace/operator:dev .
# If the folder `wheels` holds wheels, they are used and no index is asked (scripts/cluster/app-images.sh).
# Only what the classic builder knows is used: no RUN --mount, no heredocs.
ARG BASE_IMAGE=python:3.11-slim

# The requirements are files of their own: the layers below stay while pyproject.toml changes elsewhere.
FROM ${BASE_IMAGE} AS requirements
COPY pyproject.toml scripts/cluster/requirements.py /src/
RUN mkdir /requirements \
    && python3 /src/requirements.py /src/pyproject.toml none cli fast metrics secure \
        > /requirements/worker.txt \
    && python3 /src/requirements.py /src/pyproject.toml operator > /requirements/operator.txt

FROM ${BASE_IMAGE} AS installer
COPY constraints.txt wheels* /wheels/
RUN if ls /wheels/*.whl > /dev/null 2>&1; then \
        printf '[install]\nno-index = true\nfind-links = /wheels\n' > /etc/pip.conf; \
    fi \
    && python3 -m venv --without-pip /opt/headrace

FROM installer AS dependencies
COPY --from=requirements /requirements/worker.txt /requirements/
RUN python3 -m pip --python /opt/headrace/bin/python install --no-cache-dir --disable-pip-version-check \
        -c /wheels/constraints.txt -r /requirements/worker.txt \
    && python3 -m pip --python /opt/headrace/bin/python freeze > /requirements/installed.txt \
    && PYTHONDONTWRITEBYTECODE=1 /opt/headrace/bin/python -c \
        "import cron_descriptor, cronsim, nats, nkeys, prometheus_client, psutil, pydantic, rich, typer, tzdata, uvloop, yaml"

# Only what comes on top of the worker's, in the same versions: the operator's image is the worker's and this.
FROM installer AS operator-dependencies
COPY --from=requirements /requirements/operator.txt /requirements/
COPY --from=dependencies /requirements/installed.txt /requirements/
RUN python3 -m pip --python /opt/headrace/bin/python install --no-cache-dir --disable-pip-version-check \
        -c /requirements/installed.txt -c /wheels/constraints.txt -r /requirements/operator.txt \
    && PYTHONDONTWRITEBYTECODE=1 /opt/headrace/bin/python -c "import kopf, kubernetes.aio.client" \
    && cd /opt/headrace && rm -rf pyvenv.cfg lib64 bin/python*

FROM installer AS code
RUN python3 -m pip install --no-cache-dir --disable-pip-version-check --target=/hatchling hatchling
COPY pyproject.toml README.md LICENSE /src/
COPY operator /src/operator
COPY worker /src/worker
RUN PYTHONPATH=/hatchling python3 -m pip --python /opt/headrace/bin/python install --no-cache-dir \
        --disable-pip-version-check --no-deps --no-build-isolation /src \
    && cd /opt/headrace && rm -rf pyvenv.cfg lib64 bin/python*

# Nothing is written at run time but to /tmp, so the root file system may be read-only.
FROM ${BASE_IMAGE} AS runtime
ENV PATH=/opt/headrace/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
COPY --from=dependencies /opt/headrace /opt/headrace

FROM runtime AS worker
COPY --from=code /opt/headrace /opt/headrace
USER 65532:65532
ENTRYPOINT ["headrace"]
CMD ["--help"]

FROM runtime AS operator
COPY --from=operator-dependencies /opt/headrace /opt/headrace
COPY --from=code /opt/headrace /opt/headrace
USER 65532:65532
ENTRYPOINT ["python3", "-m", "headrace_operator"]

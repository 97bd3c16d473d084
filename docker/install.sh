#!/usr/bin/env bash
# What docker/Dockerfile does, so that it runs without a container engine, too, from the repository's root:
#   docker/install.sh system               as root: packages of Debian or Ubuntu
#   docker/install.sh user                 as root: who runs it
#   docker/install.sh python LOCK FOLDER   an environment with all of requirements/LOCK.txt; the Makefile's, too
set -euo pipefail

# python3-venv: of Ubuntu's images. libnuma1: vLLM's CPU kernels link against it. g++ and python3-dev: kernels are
# compiled on the spot. git: is asked for the commit when a result is written. wget: KubeRay's probes. procps: Ray's.
system() {
    apt-get update
    apt-get install --yes --no-install-recommends \
        ca-certificates g++ git libnuma1 procps python3-dev python3-venv wget
    rm -rf /var/lib/apt/lists/*
}

user() {
    # Ubuntu's images have a user of this number.
    if getent passwd 1000 >/dev/null; then userdel --remove "$(getent passwd 1000 | cut -d: -f1)" 2>/dev/null || true; fi
    useradd --create-home --uid 1000 widemargin
}

# torch first and by itself: pip then takes a CPU build where it finds one, and else the CUDA build, which runs on a CPU
# too. Then the whole lock.
python() {
    local torch="torch==2.13.0" lock="requirements/$1.txt" pip="$2/bin/pip"
    "${PYTHON:-python3}" -m venv "$2"
    "$pip" install --quiet --disable-pip-version-check "$torch" -c "$lock"
    "$pip" install --quiet --disable-pip-version-check --no-deps -r "$lock" -r requirements/owners.txt
}

"$@"

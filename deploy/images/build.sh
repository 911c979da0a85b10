#!/bin/sh
# Build the images and print their sizes. Usage: build.sh [SERVICE...]
#   BASE      base image (default debian:13-slim); on a machine without a registry, one that was imported
#   TAG       tag of the images (default: the commit)
#   PIP_CONF, PIP_CA   pip's configuration and certificate authorities, used while building only
#   DOCKER    the client (default docker);  BUILD_FLAGS   further flags of `docker build`
set -eu
cd "$(dirname "$0")/../.."
docker=${DOCKER:-docker}
base=${BASE:-debian:13-slim}
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
tag=${TAG:-$(git rev-parse --short=12 HEAD 2>/dev/null || echo dev)}
created=$(git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ 2>/dev/null || echo 1970-01-01T00:00:00Z)
[ $# -gt 0 ] || set -- archiver auth backup diagnostics gateway ingest platform

"$docker" version >/dev/null 2>&1 || {
  echo "error: no Docker engine answers; start one, or name its socket in DOCKER_HOST" >&2
  exit 1
}
secrets=
[ -z "${PIP_CONF:-}" ] || secrets="$secrets --secret id=pip_conf,src=$PIP_CONF"
[ -z "${PIP_CA:-}" ] || secrets="$secrets --secret id=pip_ca,src=$PIP_CA"

export DOCKER_BUILDKIT=1
for service in "$@"; do
  echo "Building esp-$service:$tag"
  # shellcheck disable=SC2086 # one word a flag
  "$docker" build --quiet ${BUILD_FLAGS:-} $secrets --file deploy/images/Dockerfile --target "$service" \
    --build-arg "BASE=$base" --build-arg "REVISION=$revision" --build-arg "CREATED=$created" \
    --build-arg "VERSION=$tag" --tag "esp-$service:$tag" . >/dev/null
done

size() { "$docker" image inspect --format '{{.Size}}' "$1"; }
base_size=$(size "$base" 2>/dev/null || echo 0)
for service in "$@"; do
  bytes=$(size "esp-$service:$tag")
  echo "esp-$service:$tag $((bytes / 1000000)) MB, $(((bytes - base_size) / 1000000)) MB over $base"
done

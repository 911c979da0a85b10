#!/bin/sh
# Build the image esp-servers:debian from Debian's packages and Azurite. BASE, DOCKER: as in deploy/images/build.sh
set -eu
cd "$(dirname "$0")/../../.."
[ -d deploy/native/node_modules/azurite ] || (cd deploy/native && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
echo "Building esp-servers:debian"
DOCKER_BUILDKIT=1 "${DOCKER:-docker}" build --quiet --file deploy/compose/servers/Dockerfile \
  --build-arg "BASE=${BASE:-debian:13-slim}" --tag esp-servers:debian . >/dev/null

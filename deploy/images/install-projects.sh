#!/bin/sh
# Build stage: add projects of the workspace to /opt/esp and write its bill of materials.
# Usage: install-projects.sh FOLDER...
set -eu
umask 022
python=/opt/esp/bin/python3
# Wheels and bill of materials get this time, so that two builds have the same content.
export SOURCE_DATE_EPOCH=315532800

/build/tools/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /build/wheels "$@"
for wheel in /build/wheels/*.whl; do
  name=${wheel##*/}
  # By name, not by path: pip would note the path, and the hash of the archive, in what it installs.
  /build/tools/bin/pip --python "$python" install --quiet --no-deps --no-compile --no-index \
    --find-links /build/wheels "${name%%-*}"
done
/build/tools/bin/pip --python "$python" check
/build/tools/bin/cyclonedx-py environment --output-reproducible --output-format JSON \
  --output-file /opt/esp/sbom.cdx.json /opt/esp

packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -m compileall -q --invalidation-mode unchecked-hash "$packages"/esp_*

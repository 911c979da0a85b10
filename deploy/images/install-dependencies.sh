#!/bin/sh
# Build stage: install a lock into /opt/esp, less what is never imported. Usage: install-dependencies.sh LOCK
set -eu
umask 022
python=/opt/esp/bin/python3

python3 -m venv --without-pip /opt/esp
# Wheels only: nothing is compiled, so the content follows from the lock.
/build/tools/bin/pip --python "$python" install --quiet --no-deps --no-compile --require-hashes \
  --only-binary :all: -r "$1"

packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# Tests, sources and headers of the libraries; Arrow's Flight and S3; symbols of extension modules.
find "$packages" -type d \( -name tests -o -name include \) -prune -exec rm -rf {} +
find "$packages" -type f \( -name '*.[ch]' -o -name '*.[ch]pp' -o -name '*.pyx' -o -name '*.px[di]' \) -delete
find "$packages" -path '*/pyarrow/*' \( -name '*flight*' -o -name '*s3*' \) -delete
find "$packages" -name '*.cpython-*.so' -exec strip --strip-unneeded {} +
# The file system is read-only at run time. Hashes instead of times keep the files the same in every build.
"$python" -m compileall -q -j 0 --invalidation-mode unchecked-hash "$packages"

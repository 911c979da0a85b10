#!/bin/sh
# Installs what this machine lacks: Debian packages, .venv, Azurite, the accounts the services run as.
# Usage: install.sh run|dev|python  Quick when nothing is missing.
#   dev adds what checks and tests need; python is .venv of dev alone, for tests of containers on any Linux.
set -eu
# The services' accounts have to read what is installed, whatever the caller's mask.
umask 022
cd "$(dirname "$0")/../.."
profile=${1:-run}
system=${OS_RELEASE:-/etc/os-release}
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

missing=
need() { [ -e "$1" ] || missing="$missing $2"; }
find_python() {
  # Debian's own first: the services' account may not be able to run one from somebody's home.
  for python in /usr/bin/python3 python3; do
    "$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && return
  done
}
find_python || missing="$missing python3-venv"
servers_missing() {
  set -- /usr/lib/postgresql/*/bin/postgres
  need "$1" postgresql
  need /usr/bin/pgbackrest pgbackrest
  need /usr/lib/rabbitmq/bin/rabbitmq-server rabbitmq-server
  command -v redis-server >/dev/null || missing="$missing redis-server"
  command -v nginx >/dev/null || missing="$missing nginx"
  command -v node >/dev/null || missing="$missing nodejs"
  command -v npm >/dev/null || missing="$missing npm"
  [ "$profile" = run ] || command -v wrk >/dev/null || missing="$missing wrk"
}
[ "$profile" = python ] || servers_missing

install_packages() {
  echo "Installing from Debian:$missing"
  # Debian would start each server and create a database cluster; ours are private, so neither.
  policy=/usr/sbin/policy-rc.d clusters=/etc/postgresql-common/createcluster.d/esp-stack.conf
  mkdir -p "$(dirname "$clusters")"
  echo 'create_main_cluster = false' >"$clusters"
  if [ -e "$policy" ]; then policy=; else
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  trap 'rm -f "$clusters" ${policy:+"$policy"}' EXIT
  export DEBIAN_FRONTEND=noninteractive
  log=$(mktemp)
  # shellcheck disable=SC2086 # one word a package
  { apt-get update -q && apt-get install -q -y --no-install-recommends \
      -o DPkg::Lock::Timeout=300 ca-certificates $missing; } >"$log" 2>&1 || {
    tail -n 20 "$log" >&2
    echo "error: apt-get could not install$missing — see above" >&2
    exit 1
  }
  rm -f "$log" "$clusters" ${policy:+"$policy"}
  trap - EXIT
}

# Whose packages have been tried: names and paths differ elsewhere.
is_supported() {
  name=$({ . "$system" && echo "${ID:-} ${VERSION_ID:-}"; } 2>/dev/null) || name='no /etc/os-release'
  case $name in 'debian 12' | 'debian 13') ;; *) return 1 ;; esac
}

if [ -n "$missing" ]; then
  [ "$profile" = python ] || is_supported || {
    echo "error: not installed:$missing — Debian 12 and 13 are supported, this is $name: install them by hand" >&2
    exit 1
  }
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "error: not installed:$missing — as root run: apt-get install --no-install-recommends$missing" >&2
    exit 1
  fi
  install_packages
  find_python || { echo "error: Python 3.11 or newer is needed; this is $(python3 --version)" >&2; exit 1; }
fi
# Each service runs as an account of its own, so that none can read the files of another.
create_accounts() {
  while read -r account; do
    id "$account" >/dev/null 2>&1 || useradd --system --user-group --no-create-home \
      --home-dir /nonexistent --shell /usr/sbin/nologin "$account"
  done <deploy/native/accounts.txt
}


# One installation at a time: this file is the lock, let go when the script ends.
exec 9<deploy/native/install.sh
flock 9
[ "$(id -u)" != 0 ] || [ "$profile" = python ] || create_accounts

install_npm() {
  want=$(sha256sum "$1/package-lock.json")
  [ "$(cat "$1/node_modules/.installed" 2>/dev/null)" = "$want" ] && return
  echo "Installing npm packages into $1"
  (cd "$1" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
  echo "$want" >"$1/node_modules/.installed"
}

install_all_npm() {
  install_npm deploy/native
  [ "$profile" != run ] || return 0
  install_npm tests/wasm
  install_npm services/diagnostics
}

install_python() {
  requirements='requirements/base.txt requirements/stack.txt'
  [ "$profile" = run ] || requirements="$requirements requirements/dev.txt"
  packages='libs/common libs/gateway services/ingest services/auth services/diagnostics services/archiver services/backup deploy/platform deploy/native'
  stamp=.venv/.installed-dev
  [ "$profile" != run ] || stamp=.venv/.installed-run
  # shellcheck disable=SC2086 # one word a file
  want=$({ cat $requirements; for package in $packages; do cat $package/pyproject.toml; done; pwd; } | sha256sum)
  [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && return
  echo "Installing Python packages into .venv"
  [ -x .venv/bin/pip ] || "$python" -m venv .venv
  # shellcheck disable=SC2086
  .venv/bin/pip install -q --disable-pip-version-check --require-hashes $(printf ' -r %s' $requirements)
  # shellcheck disable=SC2086
  .venv/bin/pip install -q --disable-pip-version-check --no-deps --no-build-isolation $(printf ' -e %s' $packages)
  rm -f .venv/.installed-*
  echo "$want" >"$stamp"
}

[ "$profile" != python ] || { install_python; exit; }
install_all_npm &
npm=$!
trap 'wait' EXIT
install_python
wait $npm

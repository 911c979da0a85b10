#!/bin/sh
# Run a command with a Docker engine: the one that answers, else Debian's (docker.io), started for it.
# Usage: engine.sh COMMAND...
#   ESP_ENGINE_FOLDER   its data (default /var/tmp/esp-docker), kept for the next time
set -eu
"${DOCKER:-docker}" version >/dev/null 2>&1 && exec "$@"
folder=${ESP_ENGINE_FOLDER:-/var/tmp/esp-docker}
if [ "$(id -u)" != 0 ] || [ ! -x /usr/sbin/dockerd ] || [ ! -x /usr/bin/docker ]; then
  echo "error: no Docker engine answers; as root: apt-get install --no-install-recommends docker.io" >&2
  exit 1
fi
mkdir -p "$folder"
export DOCKER=/usr/bin/docker DOCKER_HOST="unix://$folder/docker.sock"
# Not the machine's own configuration, and not /dev/null: newer engines want a JSON document.
echo '{}' >"$folder/daemon.json"
dockerd --config-file "$folder/daemon.json" --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/pid" \
  --host "$DOCKER_HOST" --log-level warn >"$folder/log" 2>&1 &
engine=$!
trap 'kill $engine; wait $engine || true' EXIT
for _ in $(seq 60); do
  "$DOCKER" version >/dev/null 2>&1 && break
  kill -0 $engine 2>/dev/null || break
  sleep 1
done
"$DOCKER" version >/dev/null 2>&1 || {
  tail -n 20 "$folder/log" >&2
  echo "error: Debian's Docker engine did not start; its log is $folder/log" >&2
  exit 1
}
"$@"

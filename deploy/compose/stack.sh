#!/bin/sh
# The platform with a simulated field in containers. Usage: stack.sh up|down|status|logs|clean|can-run [OPTION...]
#   ESP_STACK_FOLDER   folder of its state and of endpoints.json (default .stack)
#   ESP_TAG, ESP_REGISTRY   of images to pull; none: those of this commit, built where they are missing
#   BASE   base of the images that are built; where it is on this machine and no server image can be pulled,
#          the servers are built from Debian's packages too
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
folder=${ESP_STACK_FOLDER:-$root/.stack}
docker=${DOCKER:-docker}
base=${BASE:-debian:13-slim}
official=$(sed -n 's/.*image: \${[A-Z]*_IMAGE:-\(.*\)}/\1/p' "$here/compose.yaml")
ESP_TAG=${ESP_TAG:-$(git -C "$root" rev-parse --short=12 HEAD 2>/dev/null || echo latest)}
export ESP_TAG ESP_REGISTRY="${ESP_REGISTRY:-}" ESP_STATE="$folder/compose"
export SIM_HISTORY_H="${ESP_STACK_HISTORY_H:-0}"
# The native stack's ports, so that the same commands reach both.
export HTTPS_PORT="${HTTPS_PORT:-17080}" AMQPS_PORT="${AMQPS_PORT:-17672}" MQTTS_PORT="${MQTTS_PORT:-17883}"

find_compose() {
  for compose in "$docker compose" docker-compose "$root/.venv/bin/docker-compose"; do
    $compose version >/dev/null 2>&1 && return
  done
  return 1
}

# Present, or known to its registry: a machine without a network has to say so within seconds.
can_have() { "$docker" image inspect "$1" >/dev/null 2>&1 || timeout 20 "$docker" manifest inspect "$1" >/dev/null 2>&1; }

can_have_all() { for image in "$@"; do can_have "$image" || return 1; done; }

choose_servers() {
  # shellcheck disable=SC2086 # one word an image
  can_have_all $official && return
  "$docker" image inspect "$base" >/dev/null 2>&1 || return 1
  servers=debian
}

# Print why the platform cannot run in containers here, in a few words.
explain() {
  timeout 20 "$docker" version >/dev/null 2>&1 || { echo 'no Docker engine answers'; return 1; }
  find_compose || { echo 'Docker Compose is not installed'; return 1; }
  servers=
  [ -z "$ESP_REGISTRY" ] || can_have "${ESP_REGISTRY}esp-ingest:$ESP_TAG" || {
    echo "the image ${ESP_REGISTRY}esp-ingest:$ESP_TAG cannot be had"
    return 1
  }
  choose_servers || { echo 'the images of the servers can neither be pulled nor built'; return 1; }
}

require() {
  explain >"$folder/.reason" || { echo "error: $(cat "$folder/.reason"); see docs/deploying.md" >&2; rm "$folder/.reason"; exit 1; }
  rm "$folder/.reason"
}

run() {
  set -- --progress quiet --project-name "${COMPOSE_PROJECT_NAME:-esp}" --file compose.yaml --file sim.yaml "$@"
  [ -z "$servers" ] || set -- --env-file debian.env "$@"
  (cd "$here" && $compose "$@")
}

build() {
  export DOCKER="$docker"
  if [ -z "$ESP_REGISTRY" ]; then
    missing=
    for service in archiver auth backup diagnostics gateway ingest platform; do
      "$docker" image inspect "esp-$service:$ESP_TAG" >/dev/null 2>&1 || missing="$missing $service"
    done
    # shellcheck disable=SC2086 # one word a service
    [ -z "$missing" ] || TAG=$ESP_TAG "$root/deploy/images/build.sh" $missing
  fi
  [ -z "$servers" ] || "$docker" image inspect esp-servers:debian >/dev/null 2>&1 || "$here/servers/build.sh"
}

up() {
  mkdir -p "$folder"
  chmod 711 "$folder"
  require
  build
  first=; [ -d "$ESP_STATE" ] || first=1
  mkdir -p "$ESP_STATE"
  OPERATOR_USER_ID="$(id -u):$(id -g)"
  export OPERATOR_USER_ID
  echo 'Starting containers'
  run up --detach --wait --wait-timeout 600 --quiet-pull "$@" || {
    run ps --all >&2
    echo 'error: not every container is healthy; `make logs NAME=<service>` says why' >&2
    exit 1
  }
  (umask 077 && cp "$ESP_STATE/operator/endpoints.json" "$folder/endpoints.json")
  cp "$ESP_STATE/operator/ca.crt" "$folder/ca.pem" && chmod 644 "$folder/ca.pem"
  summary
}

summary() {
  value() { sed -n "s/^ *\"$1\": \"\(.*\)\",*$/\1/p" "$folder/endpoints.json" | head -n 1; }
  password="in $folder/endpoints.json, unless it has been changed"
  [ -z "$first" ] || password=$(value password)
  echo "
The platform is up in containers; 50 simulated pumps report through five gateways.
  Console     $(value http)/
  HTTP API    $(value http)/api/v1   authority: $(value ca_file)
  First login user admin, password $password (to be changed at the first login)
  MQTT        $(value mqtt)
  Addresses and credentials for tools: $folder/endpoints.json
\`make status\` shows the containers, \`make logs\` what they log, \`make down\` stops them."
}

status() {
  run ps --all --format 'table {{.Service}}\t{{.Status}}'
  # Every container that lasts has a health check; the others ran once.
  [ -z "$(run ps --all --format '{{.State}} {{.ExitCode}} {{.Health}}' | grep -v -e '^running 0 healthy' -e '^running 0 $' -e '^exited 0 ')" ] &&
    [ -n "$(run ps --quiet)" ]
}

clean() {
  run down --volumes --timeout 60
  # The state belongs to the users of the containers: who is not root has a container remove it.
  rm -rf "$folder" 2>/dev/null || {
    image=$("$docker" image ls --quiet "${ESP_REGISTRY}esp-platform" | head -n 1)
    "$docker" run --rm --user 0:0 --network none --entrypoint /bin/sh --volume "$folder:/stack" "$image" \
      -c 'rm -rf /stack/compose'
    rm -rf "$folder"
  }
}

command=$1
shift
case $command in
  can-run) explain ;;
  up) up "$@" ;;
  *)
    [ -d "$ESP_STATE" ] || { echo 'The stack is down. `make up` starts it.'; [ "$command" != status ]; exit; }
    require
    case $command in
      down) run down --timeout 60; rm -f "$folder/endpoints.json" ;;
      status) status ;;
      logs) run logs --tail 50 "$@" ;;
      clean) clean ;;
      *) echo "error: stack.sh has no command $command" >&2; exit 2 ;;
    esac ;;
esac

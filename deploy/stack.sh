#!/bin/sh
# Run a command of `make` on the stack in ESP_STACK_FOLDER, in containers or natively. Usage: stack.sh COMMAND...
#   STACK_KIND   native or compose; none: the kind that the stack has, else Compose where an engine answers and
#                the images can be had, else native
set -eu
cd "$(dirname "$0")/.."
folder=${ESP_STACK_FOLDER:-$PWD/.stack}
command=$1

native() {
  case $command in
    up) deploy/native/install.sh run ;;
    status) [ -x .venv/bin/esp-stack ] || { echo 'Nothing is installed yet. `make up` does it.'; exit 1; } ;;
    down | clean) [ -x .venv/bin/esp-stack ] || exit 0 ;;
  esac
  exec .venv/bin/esp-stack "$@"
}

kind_of_stack() {
  if [ -d "$folder/compose" ]; then echo compose; elif [ -e "$folder/ports.json" ]; then echo native; fi
}

kind=${STACK_KIND:-$(kind_of_stack)}
case $kind in
  compose) exec deploy/compose/stack.sh "$@" ;;
  native) native "$@" ;;
  '') ;;
  *) echo "error: STACK_KIND=$kind is neither native nor compose" >&2; exit 2 ;;
esac
if [ "$command" = up ]; then
  reason=$(deploy/compose/stack.sh can-run) && exec deploy/compose/stack.sh "$@"
  echo "Running natively: $reason. STACK_KIND=compose forces containers."
fi
native "$@"

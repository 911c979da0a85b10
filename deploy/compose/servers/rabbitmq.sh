#!/bin/sh
# Start RabbitMQ with the rendered configuration, `check` whether it has loaded its definitions, or list `users`.
set -eu
export HOME=/var/lib/rabbitmq
export RABBITMQ_CONFIG_FILE=/run/secrets/esp/rabbitmq.conf
export RABBITMQ_ENABLED_PLUGINS_FILE=/run/secrets/esp/enabled_plugins
export RABBITMQ_LOGS=- RABBITMQ_PID_FILE=/tmp/rabbitmq.pid
export RABBITMQ_FEATURE_FLAGS_FILE=/var/lib/rabbitmq/feature_flags
# Schedulers that spin while they wait would take the processors of a small host.
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+sbwt none +sbwtdcpu none +sbwtdio none"
PATH=/usr/lib/rabbitmq/bin:$PATH
case ${1:-} in
  check) rabbitmqctl --quiet list_queues name | grep -q '^ingest' ;;
  users) rabbitmqctl --quiet --no-table-headers list_users | cut -f1 ;;
  *) exec rabbitmq-server ;;
esac

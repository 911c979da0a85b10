#!/bin/sh
# Start PostgreSQL, with a new cluster the first time; TimescaleDB where the image has it.
set -eu
umask 077
[ -s "$PGDATA/PG_VERSION" ] || initdb --pgdata "$PGDATA" --username=postgres --auth=scram-sha-256 \
  --encoding=UTF8 --locale=C.UTF-8 --data-checksums --pwfile=/run/secrets/esp/password
if [ -e "$(pg_config --pkglibdir)/timescaledb.so" ]; then
  set -- -c shared_preload_libraries=timescaledb -c timescaledb.telemetry_level=off \
    -c timescaledb.max_background_workers=24
fi
exec postgres -D "$PGDATA" \
  -c listen_addresses='*' -c hba_file=/run/secrets/esp/pg_hba.conf -c unix_socket_directories= \
  -c max_connections=200 -c max_worker_processes=40 -c shared_buffers=256MB -c max_wal_size=4GB -c wal_compression=on \
  -c timezone=UTC -c log_timezone=UTC -c log_min_error_statement=panic -c log_parameter_max_length=0 \
  -c ssl=on -c ssl_min_protocol_version=TLSv1.3 \
  -c ssl_cert_file=/run/secrets/esp/tls.crt -c ssl_key_file=/run/secrets/esp/tls.key "$@"

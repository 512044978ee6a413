#!/bin/sh
# Starts a NATS node with the passwords of the services, which its configuration takes from the environment.
set -eu
if [ "$NATS_NAME" != nats ] && [ "$CARILLON_NATS_CONFIG" != three.conf ]; then
  echo "the profile cluster needs its settings: docker compose --env-file deploy/compose/cluster.env up" >&2
  exit 1
fi
export CARILLON_NATS_GATEWAY_PASSWORD="$(cat /run/secrets/nats/gateway)"
export CARILLON_NATS_AUTH_PASSWORD="$(cat /run/secrets/nats/auth)"
export CARILLON_NATS_FANOUT_PASSWORD="$(cat /run/secrets/nats/fanout)"
exec nats-server --config "/etc/nats/$CARILLON_NATS_CONFIG"

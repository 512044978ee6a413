#!/bin/sh
# Starts everything as the README says, looks at it from outside, puts load on it while gateways come and go, and takes it down
# again. Needs a Docker engine. Leaves the volumes; `docker compose down --volumes` takes those, too.
set -eu
cd "$(dirname "$0")/../.."
trap 'docker compose down' EXIT

docker compose up --detach
docker compose logs --no-log-prefix --follow links

docker compose run --rm load soak --rooms 20 --members 10 --publishers 4 --rate 100 --seconds 60 &
load=$!
sleep 10
docker compose up --detach --no-recreate --scale gateway=4
sleep 15
docker compose up --detach --no-recreate --scale gateway=2
sleep 10
docker compose kill --signal KILL fanout
docker compose up --detach --no-recreate
wait "$load"

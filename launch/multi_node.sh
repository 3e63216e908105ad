#!/usr/bin/env bash
# Several hosts by hand: run this on each of them, with the same preset and flags.
#
#     HOSTS=2 MAIN=10.0.0.1 NUMBER=0 launch/multi_node.sh [PRESET] [FLAGS]      on the main host
#     HOSTS=2 MAIN=10.0.0.1 NUMBER=1 launch/multi_node.sh [PRESET] [FLAGS]      on the next one, and so on
#
# The variables can be set here instead; edit these three lines:
HOSTS=${HOSTS:-2}         # how many
MAIN=${MAIN:-10.0.0.1}    # address of the main host, as the others reach it
NUMBER=${NUMBER:-0}       # which host this is: 0, the main one, to HOSTS - 1
# These are good as they are, mostly:
PORT=${PORT:-29500}       # of the meeting place on the main host; free, and open to the others
PROCESSES=${PROCESSES:-}  # on each host; empty: one for each GPU, without a GPU one
RESTARTS=${RESTARTS:-3}   # how often the run goes on by itself, from its newest checkpoint, when a process is lost
TIMEOUT=${TIMEOUT:-300}   # seconds to wait for other hosts, at the start and when one is lost

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/hosts.sh"

whole 0 9999 HOSTS NUMBER
whole 1 65535 PORT
whole 0 1000000 RESTARTS
whole 1 604800 TIMEOUT
[[ -z $PROCESSES ]] || whole 1 1024 PROCESSES
((HOSTS > 1)) || refuse "HOSTS=$HOSTS: for one host take launch/local.sh"
((NUMBER < HOSTS)) || refuse "NUMBER=$NUMBER is not below HOSTS=$HOSTS; the hosts are numbered from 0"
check "$@"
find_network
[[ $NUMBER != 0 || $mine == "$MAIN" ]] || refuse "MAIN=$MAIN is not an address of this host, NUMBER=0; it has $mine"
[[ $NUMBER == 0 || $mine != "$MAIN" ]] || refuse "MAIN=$MAIN is this host; it needs NUMBER=0, not $NUMBER"
processes
find_main

launch "not all of the $HOSTS hosts came within $TIMEOUT s; start this on every one, with the same HOSTS" \
    accelerate launch --config_file "$here/accelerate_config.yaml" \
    --num_machines "$HOSTS" --machine_rank "$NUMBER" --num_processes $((HOSTS * PROCESSES)) \
    --main_process_ip "$MAIN" --main_process_port "$PORT" --max_restarts "$RESTARTS" --rdzv_backend c10d \
    --rdzv_conf "$meeting" "$here/gan_dist/train.py" "$@"

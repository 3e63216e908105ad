#!/usr/bin/env bash
# Several hosts without a scheduler: run this on each host, with the same preset and flags.
#
#     HOSTS=2 MAIN=10.0.0.1 NUMBER=0 launch/multi_node.sh [PRESET] [FLAGS]      on the main host
#     HOSTS=2 MAIN=10.0.0.1 NUMBER=1 launch/multi_node.sh [PRESET] [FLAGS]      on the next one, and so on
#
# Instead of setting these variables, you can edit the three lines:
HOSTS=${HOSTS:-2}         # number of hosts
MAIN=${MAIN:-10.0.0.1}    # address of the main host, as the others reach it
NUMBER=${NUMBER:-0}       # number of this host, from 0 (the main host) to HOSTS - 1
# The defaults of these usually fit:
PORT=${PORT:-29500}       # of the rendezvous on the main host; must be free, and open to the others
PROCESSES=${PROCESSES:-}  # per host; empty: one per GPU, or one without a GPU
RESTARTS=${RESTARTS:-3}   # maximum number of restarts from the latest checkpoint after a process is lost
TIMEOUT=${TIMEOUT:-300}   # seconds to wait for other hosts, at the start and after one is lost

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/hosts.sh"

whole 0 9999 HOSTS NUMBER
whole 1 65535 PORT
whole 0 1000000 RESTARTS
whole 1 604800 TIMEOUT
[[ -z $PROCESSES ]] || whole 1 1024 PROCESSES
((HOSTS > 1)) || refuse "HOSTS=$HOSTS: for one host use launch/local.sh"
((NUMBER < HOSTS)) || refuse "NUMBER=$NUMBER is not below HOSTS=$HOSTS; the hosts are numbered from 0"
check "$@"
find_network
[[ $NUMBER != 0 || $mine == "$MAIN" ]] || refuse "MAIN=$MAIN is not an address of this host, NUMBER=0; it has $mine"
[[ $NUMBER == 0 || $mine != "$MAIN" ]] || refuse "MAIN=$MAIN is this host; it needs NUMBER=0, not $NUMBER"
processes
find_main

launch "not all of the $HOSTS hosts connected within $TIMEOUT s; start this on every host, with the same HOSTS" \
    accelerate launch --config_file "$here/accelerate_config.yaml" \
    --num_machines "$HOSTS" --machine_rank "$NUMBER" --num_processes $((HOSTS * PROCESSES)) \
    --main_process_ip "$MAIN" --main_process_port "$PORT" --max_restarts "$RESTARTS" --rdzv_backend c10d \
    --rdzv_conf "$rendezvous" "$here/gan_dist/train.py" "$@"

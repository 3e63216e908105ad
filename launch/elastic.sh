#!/usr/bin/env bash
# Hosts that join and leave: run this on each host when it is available, with the same preset and flags.
#
#     MAIN=10.0.0.1 HOSTS=1:4 launch/elastic.sh [PRESET] [FLAGS]
#
# Whenever a host joins or leaves (by Ctrl-C, SIGTERM or a crash), all processes restart from the latest checkpoint,
# which is of the current step unless a host crashed. The main host must stay. The batch size must be divisible by
# every possible number of processes; with --train.exact-shards, the result does not depend on it.
#
# Instead of setting these variables, you can edit the two lines:
MAIN=${MAIN:-10.0.0.1}    # address of the main host, as the others reach it
HOSTS=${HOSTS:-1:4}       # minimum and maximum number of hosts
# The defaults of these usually fit:
PORT=${PORT:-29500}       # of the rendezvous on the main host; must be free, and open to the others
PROCESSES=${PROCESSES:-}  # per host; empty: one per GPU, or one without a GPU
RESTARTS=${RESTARTS:-100} # maximum number of restarts after a loss
TIMEOUT=${TIMEOUT:-300}   # seconds to wait for enough hosts

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/hosts.sh"

whole 1 65535 PORT
whole 0 1000000 RESTARTS
whole 1 604800 TIMEOUT
[[ -z $PROCESSES ]] || whole 1 1024 PROCESSES
if [[ ! $HOSTS =~ ^[1-9][0-9]{0,3}:[1-9][0-9]{0,3}$ ]] || ((${HOSTS%:*} > ${HOSTS#*:})); then
    refuse "HOSTS=$HOSTS is not FEWEST:MOST, as in 1:4"
fi
check "$@"
find_network
processes
find_main

launch "fewer than ${HOSTS%:*} hosts connected within $TIMEOUT s; start this on more hosts" \
    torchrun --nnodes "$HOSTS" --nproc-per-node "$PROCESSES" --max-restarts "$RESTARTS" --monitor-interval 0.5 \
    --rdzv-backend c10d --rdzv-endpoint "$MAIN:$PORT" --rdzv-id gan_dist \
    --rdzv-conf "$rendezvous" -m gan_dist.train "$@"

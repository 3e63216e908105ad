#!/usr/bin/env bash
# Hosts that come and go: run this on each of them, with the same preset and flags, whenever it is there.
#
#     MAIN=10.0.0.1 HOSTS=1:4 launch/elastic.sh [PRESET] [FLAGS]
#
# Whenever a host comes or leaves (Ctrl-C or SIGTERM there, or it just dies), all processes start anew from the newest
# checkpoint, which is that very step if nobody died. The main host has to stay. The batch size must be divisible by
# every number of processes that may come about; with --train.exact-shards the result does not depend on it.
#
# The variables can be set here instead; edit these two lines:
MAIN=${MAIN:-10.0.0.1}    # address of the main host, as the others reach it
HOSTS=${HOSTS:-1:4}       # the fewest and the most
# These are good as they are, mostly:
PORT=${PORT:-29500}       # of the meeting place on the main host; free, and open to the others
PROCESSES=${PROCESSES:-}  # on each host; empty: one for each GPU, without a GPU one
RESTARTS=${RESTARTS:-100} # how often processes are started anew after a loss
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

launch "fewer than ${HOSTS%:*} hosts came within $TIMEOUT s; start this on more of them" \
    torchrun --nnodes "$HOSTS" --nproc-per-node "$PROCESSES" --max-restarts "$RESTARTS" --monitor-interval 0.5 \
    --rdzv-backend c10d --rdzv-endpoint "$MAIN:$PORT" --rdzv-id gan_dist \
    --rdzv-conf "$meeting" -m gan_dist.train "$@"

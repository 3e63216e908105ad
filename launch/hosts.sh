# What the scripts share: how variables are checked, and how hosts find the main one, and end with it. Sourced, not run.
# shellcheck shell=bash disable=SC2034

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
name=$(basename "$0")

# One line, and the exit code of bad input.
refuse() {
    echo "$name: $1" >&2
    exit 2
}

# whole LOWEST HIGHEST VARIABLE ...: they hold whole numbers in that range. No leading zero: to bash that is octal.
whole() {
    local lowest=$1 highest=$2 variable
    shift 2
    for variable; do
        if [[ ! ${!variable} =~ ^(0|[1-9][0-9]{0,8})$ ]] || ((${!variable} < lowest || ${!variable} > highest)); then
            refuse "$variable=${!variable} is no whole number from $lowest to $highest"
        fi
    done
}

# check [PRESET] [FLAGS]: ends here if there is a typing error among them, before other hosts wait for this one.
check() {
    python - "$@" <<'END' || exit
import sys
from gan_dist.config.arguments import exit_code
from gan_dist.train import parse
def check():
    parse(sys.argv[1:])
    return 0
sys.exit(exit_code("gan_dist", check))
END
}

# Somebody listens at MAIN:PORT.
answers() { timeout 2 bash -c ": < /dev/tcp/$MAIN/$PORT" 2>/dev/null; }

# Sets `mine`, this host's address on the way to MAIN, and `meeting`, how torch's agents meet; and has gloo, NCCL and the
# agent use that network: by themselves they look up the host's name, which often leads to loopback.
find_network() {
    mine=$(ip -o route get "$MAIN" 2>/dev/null | sed -n 's/.* src \([^ ]*\).*/\1/p') || true
    [[ -n $mine ]] || refuse "MAIN=$MAIN can't be reached from here: it is no IP address, or there is no route to it"
    meeting="is_host=$([[ $mine == "$MAIN" ]] && echo 1 || echo 0)"
    meeting+=",join_timeout=$TIMEOUT,last_call_timeout=1,read_timeout=10"
    local device
    device=$(ip -o address show to "$mine" | awk 'NR == 1 { sub(/@.*/, "", $2); print $2 }')
    export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$device} NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-$device}
    export PET_LOCAL_ADDR=$mine
    # Else a host that comes back finds the meeting place of before, and waits for keys that nobody sets any more
    # (torch issue 135712).
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
}

# On the main host: its port is free. On another: the main host is there; and once it has been out of reach for TIMEOUT
# seconds, this host ends too (torch's agent would wait until TCP gives up, a quarter of an hour).
find_main() {
    if [[ $mine == "$MAIN" ]]; then
        ! answers || refuse "PORT=$PORT is in use on this host; choose another one, on all of them"
        return
    fi
    local end=$((SECONDS + TIMEOUT))
    until answers; do
        ((SECONDS < end)) ||
            refuse "nobody answers at $MAIN:$PORT after $TIMEOUT s; is MAIN right, that host started, its port open?"
        sleep 1
    done
    leave_with_main &
}

leave_with_main() {
    local last=$SECONDS
    while sleep 2 && kill -0 $$ 2>/dev/null; do # $$ is the script, and the agent that takes its place
        ! answers || last=$SECONDS
        if ((SECONDS - last > TIMEOUT)); then
            echo "$name: $MAIN:$PORT has been out of reach for $TIMEOUT s; when it is back, start this again" >&2
            kill -TERM $$ && sleep 5 && kill -KILL $$
            return
        fi
    done
}

# Processes on this host: as asked for, else one for each GPU, without a GPU one.
processes() {
    [[ -n $PROCESSES ]] || PROCESSES=$(python -c "import torch; print(max(1, torch.cuda.device_count()))")
    whole 1 1024 PROCESSES
}

# launch "what to say if not all came in time" COMMAND ...: in place of this script. What torch warns of that is as it
# should be here, and its stacks of C++ addresses, are left out.
launch() {
    local late=$1 lost="nobody answers at $MAIN:$PORT any more; start this again on every host, and the run goes on"
    local noise='^frame #[0-9]+: |^<omitting python frames>$|^Exception raised from .*most recent call first'
    noise+='|hostname of the client socket cannot be retrieved|node_rank is only used for static'
    shift
    exec python "$here/launch/agent.py" "$name" "$late" "$lost" "$@" 2> >(exec grep --line-buffered -Ev "$noise" >&2)
}

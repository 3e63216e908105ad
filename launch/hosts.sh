# Functions of the launch scripts: they check variables, find the main host, and end with it. Sourced, not run.
# shellcheck shell=bash disable=SC2034

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
name=$(basename "$0")

# refuse MESSAGE: prints one line and exits with the exit code of bad input.
refuse() {
    echo "$name: $1" >&2
    exit 2
}

# whole LOWEST HIGHEST VARIABLE ...: checks whole numbers and their range. A leading zero, octal in bash, is rejected.
whole() {
    local lowest=$1 highest=$2 variable
    shift 2
    for variable; do
        if [[ ! ${!variable} =~ ^(0|[1-9][0-9]{0,8})$ ]] || ((${!variable} < lowest || ${!variable} > highest)); then
            refuse "$variable=${!variable} is not a whole number from $lowest to $highest"
        fi
    done
}

# check [PRESET] [FLAGS]: exits if they contain a typo, before other hosts wait for this one.
check() {
    python - "$@" <<'END' || exit
import sys
from gan_dist.distributed.exit_codes import exit_code
from gan_dist.train import parse
def check():
    parse(sys.argv[1:])
    return 0
sys.exit(exit_code("gan_dist", check))
END
}

# Whether a process listens at MAIN:PORT.
answers() { timeout 2 bash -c ": < /dev/tcp/$MAIN/$PORT" 2>/dev/null; }

# Sets `mine`, this host's address in the network of MAIN, and `rendezvous`, the configuration of torch's rendezvous.
# Makes gloo, NCCL and the agent use that network: by default they resolve the host's name, often to loopback.
find_network() {
    mine=$(ip -o route get "$MAIN" 2>/dev/null | sed -n 's/.* src \([^ ]*\).*/\1/p') || true
    [[ -n $mine ]] || refuse "MAIN=$MAIN can't be reached from here: it is not an IP address, or has no route"
    rendezvous="is_host=$([[ $mine == "$MAIN" ]] && echo 1 || echo 0)"
    rendezvous+=",join_timeout=$TIMEOUT,last_call_timeout=1,read_timeout=10"
    local device
    device=$(ip -o address show to "$mine" | awk 'NR == 1 { sub(/@.*/, "", $2); print $2 }')
    export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$device} NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-$device}
    export PET_LOCAL_ADDR=$mine
    # Otherwise a host that rejoins uses the store of the previous rendezvous and waits for keys that are never set
    # (torch issue 135712).
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
}

# On the main host: checks that its port is free. On another host: waits for the main host, and ends this host after the
# main host was unreachable for TIMEOUT seconds (torch's agent would wait for TCP's timeout of 15 minutes).
find_main() {
    if [[ $mine == "$MAIN" ]]; then
        ! answers || refuse "PORT=$PORT is in use on this host; choose another PORT on all hosts"
        return
    fi
    local end=$((SECONDS + TIMEOUT))
    until answers; do
        ((SECONDS < end)) ||
            refuse "no answer from $MAIN:$PORT after $TIMEOUT s; check MAIN, that host, and its port"
        sleep 1
    done
    leave_with_main &
}

leave_with_main() {
    local last=$SECONDS
    while sleep 2 && kill -0 $$ 2>/dev/null; do # $$ is the script, and the agent that replaces it
        ! answers || last=$SECONDS
        if ((SECONDS - last > TIMEOUT)); then
            echo "$name: $MAIN:$PORT was unreachable for $TIMEOUT s; when it is back, start this again" >&2
            kill -TERM $$ && sleep 5 && kill -KILL $$
            return
        fi
    done
}

# Sets PROCESSES to the number of processes on this host: as given, else one per GPU, or one without a GPU.
processes() {
    [[ -n $PROCESSES ]] || PROCESSES=$(python -c "import torch; print(max(1, torch.cuda.device_count()))")
    whole 1 1024 PROCESSES
}

# launch MESSAGE COMMAND ...: replaces this script with a launcher; MESSAGE is printed if some hosts do not connect in
# time. Hides torch's warnings of expected conditions, and its C++ stack traces.
launch() {
    local late=$1 lost="no answer from $MAIN:$PORT; start this on every host again to resume the run"
    local noise='^frame #[0-9]+: |^<omitting python frames>$|^Exception raised from .*most recent call first'
    noise+='|hostname of the client socket cannot be retrieved|node_rank is only used for static'
    shift
    exec python "$here/launch/agent.py" "$name" "$late" "$lost" "$@" 2> >(exec grep --line-buffered -Ev "$noise" >&2)
}

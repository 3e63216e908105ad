#!/usr/bin/env bash
# One machine, with or without GPUs: launch/local.sh [PRESET] [FLAGS]
#
# These are good as they are, mostly:
PROCESSES=${PROCESSES:-}  # empty: one for each GPU, without a GPU one
PRECISION=${PRECISION:-}  # no, bf16 or fp16; empty: bf16 where GPU or processor compute in it, else no
RESTARTS=${RESTARTS:-3}   # how often the run goes on by itself, from its newest checkpoint, when a process is lost

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/hosts.sh"

[[ -z $PROCESSES ]] || whole 1 1024 PROCESSES
whole 0 1000000 RESTARTS
[[ $PRECISION =~ ^(no|bf16|fp16)?$ ]] || refuse "PRECISION=$PRECISION is none of no, bf16, fp16"

# bf16 that is only emulated, as on GPUs before Ampere, is slower than fp32.
read -r found best < <(python - <<'END'
import pathlib
import torch
gpus = torch.cuda.device_count()
if gpus:
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
else:
    cpu = pathlib.Path("/proc/cpuinfo")
    bf16 = cpu.exists() and bool({"avx512_bf16", "amx_bf16"} & set(cpu.read_text().split()))
print(max(1, gpus), "bf16" if bf16 else "no")
END
)
exec python "$here/launch/agent.py" local.sh "the processes did not meet" "the processes lost each other" \
    accelerate launch --config_file "$here/accelerate_config.yaml" --max_restarts "$RESTARTS" \
    --num_processes "${PROCESSES:-$found}" --mixed_precision "${PRECISION:-$best}" "$here/gan_dist/train.py" "$@"

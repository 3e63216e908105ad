#!/usr/bin/env bash
# One machine, with or without GPUs: launch/local.sh [PRESET] [FLAGS]
#
# The defaults of these usually fit:
PROCESSES=${PROCESSES:-}  # empty: one per GPU, or one without a GPU
PRECISION=${PRECISION:-}  # no, bf16 or fp16; empty: bf16 if the GPU or processor supports it in hardware, else no
RESTARTS=${RESTARTS:-3}   # maximum number of restarts from the latest checkpoint after a process is lost

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/hosts.sh"

[[ -z $PROCESSES ]] || whole 1 1024 PROCESSES
whole 0 1000000 RESTARTS
[[ $PRECISION =~ ^(no|bf16|fp16)?$ ]] || refuse "PRECISION=$PRECISION is not one of no, bf16, fp16"

# Emulated bf16, as on GPUs before Ampere, is slower than fp32.
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
exec python "$here/launch/agent.py" local.sh "the processes did not connect" "the processes lost their connection" \
    accelerate launch --config_file "$here/accelerate_config.yaml" --max_restarts "$RESTARTS" \
    --num_processes "${PROCESSES:-$found}" --mixed_precision "${PRECISION:-$best}" "$here/gan_dist/train.py" "$@"

#!/bin/bash
# Several trainings at a time on one NVIDIA GPU that a single small network leaves idle, by NVIDIA's Multi-Process
# Service: without it the processes only take turns. `reborn-nas search` starts one worker a GPU; the others join.
#   reborn-nas search --backbone convnet8 --dataset mnist --name mine --run runs/mine &   # begins the study
#   bash recipes/mps.sh GPU-3f8c… 3                                                       # three more workers
# The GPU's UUID is in `nvidia-smi -L`. A UUID, not a number: the service and the workers may count the GPUs differently.
set -euo pipefail
export CUDA_VISIBLE_DEVICES=${1:?the UUID of the GPU, from nvidia-smi -L}
workers=${2:-2}
export REBORN_NAS_STORAGE=${REBORN_NAS_STORAGE:-journal://$PWD/runs/mine/study.journal}
folder=$(mktemp -d)
export CUDA_MPS_PIPE_DIRECTORY=$folder/pipe CUDA_MPS_LOG_DIRECTORY=$folder/log
mkdir "$CUDA_MPS_PIPE_DIRECTORY" "$CUDA_MPS_LOG_DIRECTORY"
nvidia-cuda-mps-control -d
trap 'echo quit | nvidia-cuda-mps-control; rm -r "$folder"' EXIT
for _ in $(seq "$workers"); do
    reborn-nas worker --study mine --run runs/mine --workers 1 &
done
wait

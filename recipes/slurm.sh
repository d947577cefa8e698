#!/bin/bash
# Eight workers, one GPU each, on one study in PostgreSQL. Begin the study once, on any machine:
#   reborn-nas search --backbone resnet34 --dataset cifar100 --name mine --storage "$REBORN_NAS_STORAGE" ...
# then: sbatch recipes/slurm.sh
# The password belongs into ~/.pgpass (libpq reads it) or into REBORN_NAS_STORAGE, not on a command line.
#SBATCH --job-name=reborn-nas
#SBATCH --array=0-7
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@60
export REBORN_NAS_STORAGE="${REBORN_NAS_STORAGE:?the storage's URL}"
# exec: the signal reaches the worker, which keeps the state of its training and gives its run back
exec reborn-nas worker --study mine --data-dir "$HOME/data" --run "$HOME/runs/mine" --artifacts "$HOME/states"

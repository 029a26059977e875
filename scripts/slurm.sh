#!/usr/bin/env bash
# Usage: sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 scripts/slurm.sh CONFIG WORKDIR \
#          [--config.KEY=VALUE ...]
# Trains on all GPUs of the nodes, one process each (as jax expects under SLURM). WORKDIR and the
# data are on storage that all nodes see. Two minutes before the time is over, or when the job is
# preempted, a checkpoint is written and the job is queued again; it resumes where it stopped.
#SBATCH --job-name=stf-jax
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^#SBATCH/{/^#SBATCH/d;s/^# \{0,1\}//p;}' "$0" && exit 0 ;; esac
config=${1:?usage: sbatch ... scripts/slurm.sh CONFIG WORKDIR [--config.KEY=VALUE ...]}
workdir=${2:?usage: sbatch ... scripts/slurm.sh CONFIG WORKDIR [--config.KEY=VALUE ...]}
shift 2

srun --kill-on-bad-exit=1 "${PYTHON:-python}" -m stf_jax.main --distributed \
  --config "$config" --workdir "$workdir" "$@" 2>&1 | tee -a "slurm-$SLURM_JOB_ID.log"

if grep -q "stopped after step" "slurm-$SLURM_JOB_ID.log"; then
  rm "slurm-$SLURM_JOB_ID.log"
  scontrol requeue "$SLURM_JOB_ID"
fi

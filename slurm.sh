#!/bin/bash
# Training on SLURM, an example to adapt: 6 machines of 8 GPUs, one torchrun on each.
#
#     sbatch slurm.sh
#
# Ten minutes before its time is up the run is asked to save and end, by the file `stop` in its folder, and is put into the
# queue again; it goes on from its newest checkpoint, on as many machines as there are then. $RUN and $CATALOG must be the
# same for all machines (a network file system; the catalog may be an object store). tests/test_slurm.py checks this file.
#SBATCH --job-name=vap
#SBATCH --nodes=6
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@600

set -euo pipefail
RUN=${RUN:-/data/runs/vap}
CATALOG=${CATALOG:-/data/catalog}
export OMP_NUM_THREADS=8

again() {
	touch "$RUN/stop"
	wait "$step"
	scontrol requeue "$SLURM_JOB_ID"
	exit 0
}
trap again USR1

resume=()
[ -f "$RUN/config.json" ] && resume=(--resume)
machines=$(scontrol show hostnames "$SLURM_JOB_NODELIST") # no pipe into head: with pipefail, a closed pipe would end the job
head=${machines%%$'\n'*}

srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 8 --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}" --rdzv-endpoint "$head:29500" \
	-m train.vap --catalog "$CATALOG" --backbone cogvideox-5b-i2v --out "$RUN" "${resume[@]}" --set parallel.shard=8 &
step=$!
wait "$step"

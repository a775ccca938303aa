#!/bin/bash
# {{description}}
# Filled in by experiment.py. A line of SBATCH that the experiment has no value for is left out.
#SBATCH --job-name={{name}}
#SBATCH --output={{output_path}}/slurm-%j.out
#SBATCH --open-mode=append
#SBATCH --nodes={{nodes}}
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task={{cpu}}
#SBATCH --gres={{gpu}}
#SBATCH --mem={{mem}}
#SBATCH --time={{time}}
#SBATCH --partition={{partition}}
#SBATCH --account={{account}}
#SBATCH --qos={{qos}}
#SBATCH --constraint={{constraint}}
#SBATCH --signal=B:USR1@{{warning}}
#SBATCH --requeue

set -uo pipefail
cd {{folder}} || exit 1
RUN={{output_path}}
export OMP_NUM_THREADS={{threads}} SRUN_CPUS_PER_TASK={{cpu}}
{{exports}}

# SLURM's signal, before the time limit or when the job has to make room, comes to this shell only.
pid=
trap '[ -n "$pid" ] && kill -USR1 "$pid"' USR1
trap '[ -n "$pid" ] && kill -TERM "$pid"' TERM

# Where the nodes meet. Without their names nothing is started: every node would meet itself.
NODES=$(scontrol show hostnames "$SLURM_JOB_NODELIST") || exit 1
HEAD=${NODES%%$'\n'*}
PORT=$((10000 + SLURM_JOB_ID % 20000)) # below the ports that systems give out by themselves

# Data that are read from each node's own disk: whole, verified, used again by later jobs.
STAGE={{stage}}
STAGED=$STAGE
if [ -n "$STAGE" ]; then
  LOCAL=${SLURM_TMPDIR:-${TMPDIR:-/tmp}/imle-lab-$UID}
  TOOLKIT={{toolkit}}
  STAGED=$(PYTHONPATH="$TOOLKIT" {{python}} -m recipes.experiment.stage --where "$STAGE" "$LOCAL") || exit 1
  PYTHONPATH="$TOOLKIT" srun --ntasks-per-node=1 {{python}} -m recipes.experiment.stage \
    "$STAGE" "$LOCAL" || exit 1
fi

rm -f "$RUN/status.json" # what an earlier start came to decides nothing
srun --ntasks-per-node=1 --kill-on-bad-exit=1 {{python}} -m torch.distributed.run \
  --nnodes="$SLURM_NNODES" --nproc-per-node={{processes}} --max-restarts=0 \
  --rdzv-backend=c10d --rdzv-endpoint="$HEAD:$PORT" \
  --rdzv-id="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" \
  --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGUSR1 --shutdown-timeout=110 \
  {{command}} &
pid=$!
wait $pid
rc=$?
while kill -0 $pid 2> /dev/null; do # a signal ends the waiting, not the run
  wait $pid
  rc=$?
done

# torchrun ends with 1 whatever its ranks ended with: status.json says whether to go on.
if grep -qs '"wants_requeue": true' "$RUN/status.json"; then
  scontrol requeue "$SLURM_JOB_ID" && exit 0
fi
exit $rc

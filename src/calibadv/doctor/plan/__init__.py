"""Plan before you pay: what a run would take on GPUs that are not here. Arithmetic on plain numbers; nothing is loaded.

- `assumptions`: what an estimate assumes: utilisations, lengths, the retriever's speed; each can be changed
- `batch_time`: seconds of a batch, from a roofline: generation, searches, log-probabilities, update, synchronisation
- `hardware`: GPUs as their data sheets describe them, and clusters of them
- `layouts`: the ways to share a model among GPUs and to write rollouts, with the memory each takes
- `make_plan`: a run on a cluster in every layout: what fits, how long a batch takes, days and GPU hours
- `measured`: what `benchmarks/gpu.py` measured, in the place of assumptions
- `text`: a plan as tables for a terminal
"""

from calibadv.doctor.plan.assumptions import Assumptions
from calibadv.doctor.plan.hardware import GPUS, Cluster, Gpu, find_gpu
from calibadv.doctor.plan.make_plan import RunPlan, plan_run
from calibadv.doctor.plan.measured import Measured, plan_cluster, read_measured
from calibadv.doctor.plan.text import plan_text

__all__ = [
    "GPUS",
    "Assumptions",
    "Cluster",
    "Gpu",
    "Measured",
    "RunPlan",
    "find_gpu",
    "plan_cluster",
    "plan_run",
    "plan_text",
    "read_measured",
]

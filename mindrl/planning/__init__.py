"""What a run will do, worked out before it starts: who sits where, who gets which samples, whether the model fits."""

from mindrl.planning.batch import BatchPlan
from mindrl.planning.checks import check_model
from mindrl.planning.topology import Place, Topology

__all__ = ["BatchPlan", "Place", "Topology", "check_model"]

"""What a run will do, worked out before it starts: who sits where, who gets which samples, whether the model fits."""

from mindrl.planning.batch import BatchPlan
from mindrl.planning.checks import check_model
from mindrl.planning.model import check_same_model, planned_architecture
from mindrl.planning.parameters import ParameterCounts, active_parameters, model_parameters, rank_parameters
from mindrl.planning.topology import Place, Topology
from mindrl.planning.trainable import check_trainable

__all__ = [
    "BatchPlan",
    "ParameterCounts",
    "Place",
    "Topology",
    "active_parameters",
    "check_model",
    "check_same_model",
    "check_trainable",
    "model_parameters",
    "planned_architecture",
    "rank_parameters",
]

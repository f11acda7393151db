"""Distillation losses: one family a file; `objective.py` adds them up.

What is exported here may be relied on from outside, in anyone's loop, LightningModule or Trainer:
see docs/how-to/own_loop.md.
"""

from kd_research.losses.attention import (
    AttentionTransfer,
    ChannelWise,
    FlowOfSolution,
    InterChannel,
    NeuronSelectivity,
)
from kd_research.losses.class_maps import ClassAttention, OneForAll
from kd_research.losses.contrast import Contrastive
from kd_research.losses.correlation import DIST
from kd_research.losses.divergences import (
    AdaptiveKL,
    AlphaBeta,
    JensenShannon,
    ReverseKL,
    SkewKL,
    SkewReverseKL,
    TotalVariation,
)
from kd_research.losses.factors import ActivationBoundaries, FactorTransfer, PrimeAware
from kd_research.losses.hints import Hint, MaskedGeneration, VariationalInformation
from kd_research.losses.information import InformationTheoretic, SimpleRecipe
from kd_research.losses.labels import LabelSmoothing, VirtualTeacher
from kd_research.losses.levels import MultiLevel
from kd_research.losses.logits import LogitMSE, ProbabilityMSE, SoftTarget, WeightNorm
from kd_research.losses.mutual import MutualLearning
from kd_research.losses.objective import Objective
from kd_research.losses.overhaul import Overhaul
from kd_research.losses.policy_gradient import MiniLLM
from kd_research.losses.relations import (
    CorrelationCongruence,
    ProbabilisticTransfer,
    Relational,
    SimilarityPreserving,
)
from kd_research.losses.review import Review
from kd_research.losses.schedules import Warmup
from kd_research.losses.self_supervision import SelfSupervised
from kd_research.losses.singular import SingularVectors
from kd_research.losses.soft_tree import BalancedPaths, LeafLabels, LeafTargets
from kd_research.losses.sorted_probabilities import UniversalLogit
from kd_research.losses.target_class import (
    DecoupledKD,
    NormalizedKD,
    RefinedLogit,
    WeightedSoftLabel,
)
from kd_research.losses.teacher_head import ReusedClassifier, SoftmaxRegression
from kd_research.losses.temperature import (
    AnnealedLogits,
    CurriculumTemperature,
    Spherical,
    Standardized,
    TransformedTeacher,
)
from kd_research.losses.transformers import HiddenCosine, MiniLM, TinyBERT

__all__ = [
    "ActivationBoundaries",
    "AdaptiveKL",
    "AlphaBeta",
    "AnnealedLogits",
    "AttentionTransfer",
    "BalancedPaths",
    "ChannelWise",
    "ClassAttention",
    "Contrastive",
    "CorrelationCongruence",
    "CurriculumTemperature",
    "DIST",
    "DecoupledKD",
    "FactorTransfer",
    "FlowOfSolution",
    "HiddenCosine",
    "Hint",
    "InformationTheoretic",
    "InterChannel",
    "JensenShannon",
    "LabelSmoothing",
    "LeafLabels",
    "LeafTargets",
    "LogitMSE",
    "MaskedGeneration",
    "MiniLLM",
    "MiniLM",
    "MultiLevel",
    "MutualLearning",
    "NeuronSelectivity",
    "NormalizedKD",
    "Objective",
    "OneForAll",
    "Overhaul",
    "PrimeAware",
    "ProbabilisticTransfer",
    "ProbabilityMSE",
    "RefinedLogit",
    "Relational",
    "ReusedClassifier",
    "ReverseKL",
    "Review",
    "SelfSupervised",
    "SimilarityPreserving",
    "SimpleRecipe",
    "SkewKL",
    "SkewReverseKL",
    "SingularVectors",
    "SoftTarget",
    "SoftmaxRegression",
    "Spherical",
    "Standardized",
    "TinyBERT",
    "TotalVariation",
    "TransformedTeacher",
    "UniversalLogit",
    "VariationalInformation",
    "VirtualTeacher",
    "Warmup",
    "WeightNorm",
    "WeightedSoftLabel",
]

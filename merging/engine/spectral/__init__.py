"""Merge methods on whole matrices: pure functions on arrays, one file a method.

``deltas(k)`` gives τ_k (rows, columns), ``weights[k]`` its coefficient; the result is the merged
update, not yet multiplied by λ (see `plain`). `GUIDES` says for each what λ suits it and how
tensors that are no matrices of directions are merged. `consensus` and `ram` are elementwise and
take the terms as (K, n); LARV is no merge but scales the layers of a vector before one.
"""

from . import calibration, consensus, core_space, isotropic, knots, larv, ram, tsv, wudi
from .calibration import svc
from .consensus import consensus_merge
from .core_space import core_merge
from .guide import Guide
from .isotropic import iso_c, iso_cts
from .knots import knots_merge
from .larv import LayerSummary, larv_scales, larv_scores, layer_summary
from .plain import Deltas, Factors, weighted_average, weighted_sum
from .ram import ram_counts, ram_merge, ram_plus_merge
from .tsv import tsv_merge
from .wudi import wudi_merge

GUIDES: dict[str, Guide] = {
    "tsv": tsv.GUIDE,
    "iso_c": isotropic.GUIDE,
    "iso_cts": isotropic.GUIDE,
    "svc": calibration.GUIDE,
    "consensus": consensus.GUIDE,
    "knots": knots.GUIDE,
    "core": core_space.GUIDE,
    "ram": ram.GUIDE,
    "ram_plus": ram.GUIDE,
    "larv": larv.GUIDE,
    "wudi": wudi.GUIDE,
}

__all__ = [
    "GUIDES",
    "Deltas",
    "Factors",
    "Guide",
    "LayerSummary",
    "consensus_merge",
    "core_merge",
    "iso_c",
    "iso_cts",
    "knots_merge",
    "larv_scales",
    "larv_scores",
    "layer_summary",
    "ram_counts",
    "ram_merge",
    "ram_plus_merge",
    "svc",
    "tsv_merge",
    "weighted_average",
    "weighted_sum",
    "wudi_merge",
]

"""Key code -> feature block: feature grids (section 3.2 of the paper), or nothing at all."""

from bricscli.nn.retrieval.feature_grid import FeatureGrid, NoRetrieval

__all__ = ["FeatureGrid", "NoRetrieval"]

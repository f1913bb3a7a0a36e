"""Semantic segmentation: model, data, loss and metric together."""

from tapadl.tasks.segmentation.inference import sliding_logits, whole_logits
from tapadl.tasks.segmentation.loss import pixel_cross_entropy

__all__ = ["pixel_cross_entropy", "sliding_logits", "whole_logits"]

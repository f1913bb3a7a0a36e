"""Image classification: model, data, loss and metric together."""

from tapadl.tasks.classification.in_memory import Normalisation, count_errors, train_classifier

__all__ = ["Normalisation", "count_errors", "train_classifier"]

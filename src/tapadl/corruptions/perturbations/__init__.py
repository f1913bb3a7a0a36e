"""Perturbation sequences of images, as in ImageNet-P: the frames of a short film in which little changes."""

from tapadl.corruptions.perturbations.api import perturb
from tapadl.corruptions.perturbations.sequence import FRAMES, PERTURBATIONS, Perturbation, sequence_constants

__all__ = ["FRAMES", "PERTURBATIONS", "Perturbation", "perturb", "sequence_constants"]

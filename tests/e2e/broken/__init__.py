"""Broken and hostile model directories, made from the golden checkpoints: the tables of
test_broken_models.py. One Case is one way to break a directory and what the error must name."""
from .config import CONFIG
from .model import Case, Model
from .text import TEMPLATE, TEXT
from .weights import WEIGHTS

ALL = WEIGHTS + CONFIG + TEXT + TEMPLATE

__all__ = ["ALL", "Case", "Model"]

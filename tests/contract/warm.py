"""Imported by the fork server alone: what every child process would otherwise import and prepare for itself."""

from __future__ import annotations

import torch

from contract.case import NAMES, load_case

torch.set_num_threads(1)
for name in NAMES:
    load_case(name).objective()

"""`python -m selfsup`, and what `accelerate launch -m selfsup` and `torchrun -m selfsup` start."""

from __future__ import annotations

from selfsup.cli import main

if __name__ == "__main__":
    main()

"""`python -m ai.backend.cli`: what the launcher runs."""

from .main import main

if __name__ == "__main__":
    main()

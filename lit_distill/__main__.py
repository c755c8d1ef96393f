"""``python -m lit_distill`` is ``lit-distill``."""

from lit_distill.cli.command import main

if __name__ == "__main__":
    main()

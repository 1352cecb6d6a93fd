"""`python -m salad.cli`, as torchrun starts it."""

from salad.cli import main

if __name__ == "__main__":
    main()

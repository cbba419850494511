"""`python -m storagebench` is the console script."""

from storagebench.cli import main

if __name__ == "__main__":
    main()

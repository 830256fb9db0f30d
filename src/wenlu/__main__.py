"""``python -m wenlu``: the same as the command ``wenlu``."""

from wenlu.cli.main import main

if __name__ == "__main__":
    main(prog_name="wenlu")

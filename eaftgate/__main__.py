"""`python -m eaftgate`: the command line, for torchrun."""

from eaftgate.commands.app import main

if __name__ == "__main__":
    main()

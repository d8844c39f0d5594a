"""`python -m bricscli`."""

from bricscli.app import main

if __name__ == "__main__":
    main()

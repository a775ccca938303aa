"""The former spelling of a command, `python -m data.synthetic`: see `data.scenes`."""

from data.scenes.sheet import main

if __name__ == "__main__":
    main()

"""`python -m data.scenes`: write a contact sheet."""

from data.scenes.sheet import main

if __name__ == "__main__":
    main()

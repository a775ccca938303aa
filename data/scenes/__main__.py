"""`python -m data.scenes`: write a contact sheet."""

from data.scenes.sheet import main
from runtime.cli import prepare

if __name__ == "__main__":
    main(prepare=prepare)

"""The former spelling of `python -m diffusion.original FILE.pkl`, which goes on working."""

import runpy

if __name__ == "__main__":
    runpy.run_module("diffusion.original", run_name="__main__", alter_sys=True)

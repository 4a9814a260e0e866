"""python -m vmae_jax.study with a stand-in for the runs."""

import sys
from pathlib import Path

from vmae_jax.study import __main__ as command
from vmae_jax.study import jobs

if __name__ == "__main__":
    jobs.MAIN = (sys.executable, str(Path(__file__).with_name("fake_main.py")))
    command.cli()

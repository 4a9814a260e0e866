"""What every command has in common: warnings and errors as a user reads them."""

import subprocess
import sys

PROGRAM = """
import logging
from vmae_jax import command

def main(argv):
    for _ in range(2):
        logging.getLogger("any.library").warning("%s is odd", "this")
        logging.getLogger("any.library").info("nobody asked")
    command.speak_plainly()
    logging.warning("that as well")
    raise OSError("it is over")

command.run(main)
"""


def test_warnings_are_said_once_and_without_prefix():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.stderr == "warning: this is odd\nwarning: that as well\nerror: it is over\n"
    assert done.returncode == 1
    assert not done.stdout

"""``python -m tain``."""

from tain.cli.main import main

main()

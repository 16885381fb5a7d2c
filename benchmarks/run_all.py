"""Run every benchmark in turn and draw the plots of the docs from their results."""

import subprocess
import sys
from pathlib import Path

SCRIPTS = (
    "start_speed.py",
    "mirror_speed.py",
    "encode_speed.py",
    "pretrain_speed.py",
    "mlm_loss_spread.py",
    "transfer_speed.py",
    "language_bias.py",
    "ranking_speed.py",
    "inspection_speed.py",
    "distil_speed.py",
    "mirror_gpu.py",
)


def main():
    here = Path(__file__).parent
    failed = [script for script in SCRIPTS if subprocess.run([sys.executable, here / script, *sys.argv[1:]], check=False).returncode]
    failed += [script for script in ("draw_gain.py",) if subprocess.run([sys.executable, here / script], check=False).returncode]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

"""Install the oldest versions that pyproject.toml's `dependencies` allow into FOLDER, to be put before all others.

    python .ci/lowest.py FOLDER && PYTHONPATH=FOLDER editkit ...

torch is left out: it is gigabytes for one line of information; the environment's own one serves.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

folder = Path(sys.argv[1])
project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
lowest = [line.replace(">=", "==") for line in project["dependencies"] if not line.startswith("torch")]
pip = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", str(folder)]
sys.exit(subprocess.run([*pip, *lowest], check=False).returncode)

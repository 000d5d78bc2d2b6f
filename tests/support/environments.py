"""A virtual environment of its own for tests of what happens when Python starts."""

import json
import os
import subprocess
import sysconfig
import venv
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


class Environment:
    """Sees the packages of this environment, but without their .pth files: no hook is on."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.site_packages = next(folder.glob("lib/python*/site-packages"))
        self.package = self.site_packages / "lm_eval_specfair"
        # Sorts before the hook's .pth, as what the hook imports has to be on the path by then.
        (self.site_packages / "a_packages.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run its Python in a folder outside of the checkout."""
        environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "LM_EVAL_SPECFAIR"))
        }
        return subprocess.run(
            [self.python, *arguments],
            env=environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"} | variables,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    def value(self, code: str, **variables: str) -> object:
        """What the code prints last, read as JSON; nothing may go to stderr."""
        done = self.run("-c", code, **variables)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return json.loads(done.stdout.splitlines()[-1])

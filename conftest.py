"""What a plain ``pytest --nbval`` needs to do the right thing by itself."""

import os
from pathlib import Path

import matplotlib

# Kernels inherit this environment. Notebooks run in the quick profile and without progress bars,
# whose text would never compare equal.
os.environ.setdefault("VAELIB_PROFILE", "quick")
os.environ["TQDM_DISABLE"] = "1"
# Workers share the cores, and the networks of the tests are small: more threads would be slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Strings are hashed alike in every kernel, so no printed order of a set can flip.
os.environ.setdefault("PYTHONHASHSEED", "0")
# The back end is chosen per process. In the environment it would replace the inline back end of
# the notebooks' kernels, which then show no figure and warn about it.
os.environ.pop("MPLBACKEND", None)
matplotlib.use("agg")


ROOT = Path(__file__).resolve().parent


def pytest_configure(config):
    config.option.nbval_sanitize_with = str(ROOT / "tests" / "nbval_marks.cfg")


def notebooks_to_run(config) -> list[Path]:
    """Return the notebooks that nbval will run, from the arguments of the command line."""
    if not config.option.nbval and not config.option.nbval_lax:
        return []
    paths = [config.invocation_params.dir / arg.split("::")[0] for arg in config.args]
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))]
    return [file for file in files if file.suffix == ".ipynb"]


def pytest_xdist_auto_num_workers(config) -> int:
    """One worker per notebook where there are several, never more than CPU cores."""
    notebooks = len(notebooks_to_run(config))
    cores = os.cpu_count() or 1
    return min(notebooks, cores) if notebooks > 1 else 0

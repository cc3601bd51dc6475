"""What is installed is what is in the checkout: wheel, sdist and editable install, each tried from another folder.

Nothing here needs the network: builds use the tools of the `dev` extra, and the virtual environments borrow the
packages of the one that runs the tests.
"""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

import llmsim

ROOT = Path(__file__).parents[1]
CATALOGUE = ("hardware", "workloads")
CACHES = {"__pycache__", ".hypothesis", ".ipynb_checkpoints", ".mypy_cache", ".pytest_cache", ".ruff_cache"}


def run(*command: object, cwd: Path) -> str:
    """Return what a command printed; it must succeed, without standard input and without settings of ours."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LLMSIM", "PYTEST"))}
    words = [str(part) for part in command]
    done = subprocess.run(words, cwd=cwd, env=plain, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def catalogue() -> dict[str, bytes]:
    """Return the files of the catalogue in the checkout."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for folder in CATALOGUE
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file()
    }


def modules() -> set[str]:
    """Return the files of the package in the checkout."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "llmsim").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """Return the wheel, which is built from the sdist, and the sdist."""
    target = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, ROOT, cwd=target)
    (wheel,) = target.glob("*.whl")
    (sdist,) = target.glob("*.tar.gz")
    return wheel, sdist


def environment(folder: Path, wheel: Path) -> Path:
    """Install a wheel into a new virtual environment that borrows our packages; return its folder of commands."""
    venv.create(folder, with_pip=False)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    # A path that a .pth file adds is searched after the environment's own packages, and .pth files in it are
    # not read: neither an installed nor an editable llmsim of ours gets in the way.
    Path(paths["purelib"], "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    commands = Path(paths["scripts"])
    python = commands / Path(sys.executable).name
    # Ignoring what is installed: pip sees the borrowed llmsim too, and must neither take it nor remove it.
    options = ["--quiet", "--no-deps", "--no-index", "--ignore-installed"]
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, cwd=folder)
    return commands


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """Return the commands of an environment in which the wheel is installed."""
    return environment(tmp_path_factory.mktemp("installed"), built[0])


# ---------------------------------------------------------------------- what is inside


def test_the_wheel_holds_the_package_and_the_catalogue_once(built):
    with zipfile.ZipFile(built[0]) as wheel:
        inside = {name: wheel.read(name) for name in wheel.namelist() if ".dist-info/" not in name}
    assert {name.removeprefix("llmsim/_catalog/") for name in inside if "/_catalog/" in name} == set(catalogue())
    for name, content in catalogue().items():
        assert inside.pop(f"llmsim/_catalog/{name}") == content, name
    assert set(inside) == modules()
    assert "llmsim/py.typed" in inside


def test_the_sdist_holds_what_builds_tests_and_explains_the_package(built):
    with tarfile.open(built[1]) as sdist:
        names = {member.name.split("/", 1)[1] for member in sdist.getmembers() if member.isfile()}
    assert set(catalogue()) | modules() <= names
    told = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "pyproject.toml", ".ci/run")
    assert set(told) <= names
    for folder in ("tests", "docs", "notebooks", "benchmarks"):
        here = {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and not CACHES & set(path.parts)
        }
        # What the site's build leaves in docs/ is made anew by every build.
        here = {path for path in here if not path.startswith(("docs/_build/", "docs/notebooks/"))}
        assert here <= names, folder
    assert not [name for name in names if name.startswith((".venv", "runs/", "dist/")) or "__pycache__" in name]


def test_the_metadata_says_what_the_package_is(built):
    with zipfile.ZipFile(built[0]) as wheel:
        info = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")).rpartition("/")[0]
        metadata = HeaderParser().parsestr(wheel.read(f"{info}/METADATA").decode())
        commands = wheel.read(f"{info}/entry_points.txt").decode()
        licence = wheel.read(f"{info}/licenses/LICENSE").decode()
    assert metadata["Version"] == llmsim.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Apache License" in licence
    assert "# llmsim" in metadata.get_payload()
    assert "llmsim = llmsim.cli:main" in commands
    assert "llmsim = llmsim.testing.plugin" in commands


def test_no_copy_of_the_catalogue_lies_in_the_checkout(built):
    assert not (ROOT / "llmsim" / "_catalog").exists()
    assert not list(ROOT.glob("hardware/**/__init__.py")) + list(ROOT.glob("workloads/**/__init__.py"))


# ---------------------------------------------------------------------- what is installed


def test_the_installed_wheel_reads_its_own_catalogue(installed, tmp_path):
    code = "import llmsim, llmsim.catalog as c; print(llmsim.__file__, c.folder('hardware/devices'), sep='\\n')"
    module, folder = run(installed / "python", "-c", code, cwd=tmp_path).splitlines()
    assert Path(module).is_relative_to(installed.parent)
    assert Path(folder) == Path(module).parent / "_catalog" / "hardware" / "devices"
    listed = json.loads(run(installed / "llmsim", "list", "hardware", "--json", cwd=tmp_path))
    devices = {path.stem for path in (ROOT / "hardware" / "devices").glob("*.yaml")}
    assert {device["device"] for device in listed["devices"]} == devices


def test_the_installed_command_simulates_from_another_folder(installed, tmp_path):
    said = run(installed / "llmsim", "simulate", "--num-prompts", 20, "-o", "out", cwd=tmp_path)
    assert "Successful requests:                     20" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "requests.csv",
        "scenario.resolved.yaml",
        "summary.json",
    }
    trace = run(installed / "llmsim", "simulate", "--trace", "chat-200.csv", "--no-output", cwd=tmp_path)
    assert "Successful requests:                     200" in trace


def test_the_installed_plugin_is_found_by_pytest(installed, tmp_path):
    (tmp_path / "test_it.py").write_text(
        "def test_it(llmsim_run):\n"
        "    run = llmsim_run(model='llama-3.1-8b', gpu='h100-sxm', request_rate=8, num_prompts=5)\n"
        "    assert run.metrics['completed'] == 5\n"
    )
    said = run(installed / "python", "-m", "pytest", "-q", "test_it.py", cwd=tmp_path)
    assert "1 passed" in said


def test_an_editable_install_reads_the_checkout(tmp_path):
    code = f"import hatchling.build as b, os; os.chdir({str(ROOT)!r}); print(b.build_editable({str(tmp_path)!r}))"
    wheel = tmp_path / run(sys.executable, "-c", code, cwd=tmp_path).split()[-1]
    commands = environment(tmp_path / "environment", wheel)
    code = "import llmsim, llmsim.catalog as c; print(llmsim.__file__, c.folder('workloads/traces'), sep='\\n')"
    module, folder = run(commands / "python", "-c", code, cwd=tmp_path).splitlines()
    assert Path(module) == ROOT / "llmsim" / "__init__.py"
    assert Path(folder) == ROOT / "workloads" / "traces"
    assert "h100-sxm" in run(commands / "llmsim", "list", "hardware", cwd=tmp_path)
    assert not (ROOT / "llmsim" / "_catalog").exists()

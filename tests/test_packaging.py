"""The package as users get it: wheel, editable install, entry point, light imports, lock."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
import tomllib

HEAVY = {"torch", "verl", "vllm", "ray", "transformers", "tensordict", "numpy"}
RECIPE = "+recipe=multiattempt"


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def run_python(python: Path | str, *arguments: str, cwd: Path) -> str:
    """Run an interpreter outside the checkout, whose path it must not find by chance; return what it printed."""
    result = subprocess.run([str(python), *arguments], cwd=cwd, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, f"{arguments}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    return result.stdout


def compose(python: Path | str, *overrides: str, cwd: Path) -> str:
    """Return the configuration that verl's training command would run with; nothing is started."""
    return run_python(python, "-m", "verl.trainer.main_ppo", *overrides, "--cfg", "job", cwd=cwd)


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, so that nothing is left in the checkout or taken from it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repository / name, source)
    for folder in repository.iterdir():  # with all that must not get into the wheel
        if folder.is_dir() and not folder.name.startswith(".") and folder.name not in {"build", "dist", "outputs"}:
            shutil.copytree(folder, source / folder.name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    target = tmp_path_factory.mktemp("wheel")
    run_python(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), cwd=source)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python_with_wheel(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the wheel, and everything else from this environment but the editable install."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    run_python(sys.executable, "-m", "venv", "--without-pip", str(venv), cwd=venv.parent)
    python = venv / "bin" / "python"
    site = Path(run_python(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=venv).strip())
    run_python(sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", str(wheel), cwd=venv)
    # A .pth file in a folder that is itself named by a .pth file is not read: the editable finder stays out, but its
    # dist-info, and with it a second entry point, must be hidden too. So link every package instead of the folder.
    ours = {normalized(path.name) for path in site.iterdir()}
    for path in Path(sys.prefix, "lib", f"python3.{sys.version_info.minor}", "site-packages").iterdir():
        if "multiattempt" not in path.name and path.suffix != ".pth" and normalized(path.name) not in ours:
            (site / path.name).symlink_to(path)
    return python


def test_wheel_contains_package_plugin_configs_and_marker(wheel: Path, repository: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(repository).as_posix() for path in repository.glob("verl_multiattempt/**/*.py")}
    configs = {path.relative_to(repository).as_posix() for path in repository.glob("verl_multiattempt/**/*.yaml")}
    assert "verl_multiattempt/config/recipe/multiattempt.yaml" in configs
    assets = {path.relative_to(repository).as_posix() for path in repository.glob("verl_multiattempt/assets/*")}
    assert "verl_multiattempt/assets/view.html" in assets
    expected = modules | configs | assets | {"hydra_plugins/verl_multiattempt.py", "verl_multiattempt/py.typed"}
    assert expected <= names


def test_wheel_contains_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    roots = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert roots == {"verl_multiattempt", "hydra_plugins"}
    assert [name for name in names if name.startswith("hydra_plugins/")] == ["hydra_plugins/verl_multiattempt.py"]
    assert not [name for name in names if name.endswith((".pyc", ".ipynb")) or "test" in Path(name).stem.split("_")]


def test_wheel_metadata_names_licence_extras_and_entry_point(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        texts = {Path(name).name: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name}
    metadata = HeaderParser().parsestr(texts["METADATA"])
    assert metadata["Name"] == "verl-multiattempt"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra") or []) == {"vllm", "openai", "cpu", "dev"}
    assert "Apache License" in texts["LICENSE"]
    assert texts["entry_points.txt"].split("\n\n") == [
        "[console_scripts]\nmultiattempt = verl_multiattempt.cli:main",
        "[verl.plugins]\nmultiattempt = verl_multiattempt.adapters.register\n",
    ]


@pytest.mark.verl
def test_wheel_install_composes_recipe_from_neutral_folder(python_with_wheel: Path, tmp_path: Path) -> None:
    where = run_python(python_with_wheel, "-c", "import verl_multiattempt as m; print(m.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(python_with_wheel.parents[1])
    config = compose(python_with_wheel, RECIPE, cwd=tmp_path)
    assert re.search(r"^multiattempt:", config, re.MULTILINE)
    assert re.search(r"^ +default_agent_loop: multiattempt$", config, re.MULTILINE)


@pytest.mark.verl
def test_wheel_install_has_the_command(python_with_wheel: Path, tmp_path: Path) -> None:
    done = subprocess.run([python_with_wheel.with_name("multiattempt"), "--help"], cwd=tmp_path, capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert done.stdout.startswith("usage: multiattempt ")


@pytest.mark.verl
def test_wheel_install_has_exactly_one_entry_point(python_with_wheel: Path, tmp_path: Path) -> None:
    code = "from importlib.metadata import entry_points as e; print(len([p for p in e(group='verl.plugins')]))"
    assert run_python(python_with_wheel, "-c", code, cwd=tmp_path).strip() == "1"


@pytest.mark.verl
def test_editable_install_composes_recipe_from_neutral_folder(repository: Path, tmp_path: Path) -> None:
    where = run_python(sys.executable, "-c", "import verl_multiattempt as m; print(m.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(repository), "the checkout is not what is installed: run make setup"
    config = compose(sys.executable, RECIPE, cwd=tmp_path)
    assert re.search(r"^multiattempt:", config, re.MULTILINE)


@pytest.mark.verl
def test_command_line_key_overrides_recipe(tmp_path: Path) -> None:
    config = compose(sys.executable, RECIPE, "multiattempt.max_attempts=3", "data.train_batch_size=7", cwd=tmp_path)
    assert re.search(r"^  max_attempts: 3$", config, re.MULTILINE)
    assert re.search(r"^  train_batch_size: 7$", config, re.MULTILINE)


@pytest.mark.verl
def test_plugin_leaves_verl_alone_without_the_recipe(tmp_path: Path) -> None:
    config = compose(sys.executable, cwd=tmp_path)
    assert not re.search(r"^multiattempt:", config, re.MULTILINE)
    assert re.search(r"^ +default_agent_loop: single_turn_agent$", config, re.MULTILINE)


def core_modules() -> list[str]:
    package = Path(__file__).resolve().parents[1] / "verl_multiattempt"
    names = [path.stem for path in sorted(package.glob("*.py")) if path.stem != "__init__"]
    return ["verl_multiattempt", *(f"verl_multiattempt.{name}" for name in names)]


@pytest.mark.parametrize("module", core_modules())
def test_core_imports_stay_light(module: str, tmp_path: Path) -> None:
    allowed = {"verl_multiattempt.advantage": {"torch", "numpy"}}.get(module, set())  # estimators are torch by nature
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    loaded = set(run_python(sys.executable, "-c", code, cwd=tmp_path).split())
    assert loaded <= allowed


def locked(repository: Path) -> dict[str, str]:
    lines = (repository / "requirements" / "cpu.lock").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_lock_is_bare_pins(repository: Path) -> None:
    for name, version in locked(repository).items():
        assert re.fullmatch(r"[a-z0-9-]+", name)
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), (
            f"{name}: no local version, no marker, no source; got {version}"
        )


def test_lock_leaves_out_what_breaks_beside_a_cpu_torch(repository: Path) -> None:
    names = set(locked(repository))
    assert not names & {"torchvision", "torchaudio", "torchcodec", "triton"}
    assert not [name for name in names if name.startswith(("nvidia-", "cuda-"))]


def test_lock_meets_pins_of_pyproject(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    pins = locked(repository)
    for requirement in project["dependencies"] + extras["cpu"] + extras["dev"]:
        name, _, version = requirement.partition("==")
        name = re.split(r"[<>=\[]", name)[0]
        assert normalized(name) in pins, f"{requirement}: run make lock"
        assert not version or pins[normalized(name)] == version, f"{requirement}: run make lock"


def test_lock_is_what_is_installed(repository: Path, tmp_path: Path) -> None:
    code = (
        "from importlib.metadata import version; import sys; print(*[version(n).split('+')[0] for n in sys.argv[1:]])"
    )
    pins = locked(repository)
    found = run_python(sys.executable, "-c", code, *pins, cwd=tmp_path).split()
    assert dict(zip(pins, found, strict=True)) == pins, "run make setup"

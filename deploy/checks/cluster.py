"""A small cluster of real processes on this machine, started as the chart's pods are: by start.sh and the chart's own flags."""

import contextlib
import ctypes
import json
import os
import random
import signal
import socket
import struct
import subprocess
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tools import CHART

NAMESPACE, RELEASE = "prod", "flotilla"
SHARDS = 4
DIMS = 8
# So that a minute is enough to see everything: small segments, and every second a search compared with a scan.
QUICK = {"FLOTILLA_STORAGE_SEAL_ROWS": "200", "FLOTILLA_INDEX_RECALL_SECONDS": "1", "FLOTILLA_LOG_SEGMENT_BYTES": "1048576",
         "FLOTILLA_CLUSTER_PARTITIONS": "6", "RUST_LOG": "warn,openraft=error"}


def ends_with_us():
    """Called in a new process: the system ends it when this one is gone, however that went."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def free_port():
    with contextlib.closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def get(url, timeout=5):
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return answer.read().decode()


def within(seconds, what, work):
    """Waits until `work` gives something true."""
    until = time.monotonic() + seconds
    while True:
        try:
            if found := work():
                return found
            why = "not yet"
        except Exception as error:
            why = error
        assert time.monotonic() < until, f"{what}: not within {seconds} s: {why}"
        time.sleep(0.2)


class Cluster:
    """Processes and where they answer. Everything ends with it."""

    def __init__(self, binary, folder):
        self.folder = Path(folder)
        self.processes = {}
        self.ports = {}
        (self.folder / "bin").mkdir()
        (self.folder / "bin/flotilla").symlink_to(binary)
        self.env = {**os.environ, **QUICK, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
        self.credentials()

    def credentials(self):
        """Callers have names: one sees to the cluster, and one is a tenant that may have one collection."""
        keys = self.folder / "keys.json"

        def key(*words):
            return subprocess.run(["flotilla", "keys", "create", "--file", str(keys), "--grant", "admin", *words], env=self.env,
                                  check=True, capture_output=True, text=True).stdout.strip()

        self.env["FLOTILLA_API_KEY"], self.tenant = key("--name", "ops"), key("--name", "shop", "--tenant", "acme")
        self.env |= {"FLOTILLA_SECURITY_API_KEYS_FILE": str(keys), "FLOTILLA_HUB_ENABLED": "true",
                     "FLOTILLA_HUB_TENANT_LIMITS_DEFAULT_MAX_COLLECTIONS": "1"}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()

    def start(self, name, *command, **env):
        log = open(self.folder / f"{name}.log", "a")
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                   env={**self.env, **env}, start_new_session=True, preexec_fn=ends_with_us)
        log.close()
        self.processes[name] = process

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()

    def shard(self, i, may_begin):
        """As the pod does it: start.sh with the chart's flags."""
        name = f"{RELEASE}-shard-{i}"
        data, peers = self.ports.setdefault(name, (free_port(), free_port()))
        start = self.folder / f"{name}.start"
        start.mkdir(exist_ok=True)
        (start / "begin").write_text("yes\n" if may_begin else "no\n")
        others = [ports[1] for other, ports in self.ports.items() if "shard" in other and other != name]
        (start / "seeds").write_text("".join(f"127.0.0.1:{port}\n" for port in others[:3]))
        self.start(name, "/bin/sh", str(CHART / "files/start.sh"), f"--data={self.folder / name}", f"--port={data}",
                   f"--peer-port={peers}", "--bind=127.0.0.1", "--insecure-bind", "--advertise=127.0.0.1", "--zone=", "--weight=1",
                   POD_NAME=name, SHARD_ID=name, START_DIR=str(start), DATA_DIR=str(self.folder / name))
        return name

    def begin(self):
        for i in range(SHARDS):
            self.ports[f"{RELEASE}-shard-{i}"] = (free_port(), free_port())
        for i in range(SHARDS):
            self.shard(i, may_begin=True)
        seed = self.ports[f"{RELEASE}-shard-0"][1]
        replica = f"{RELEASE}-replica-0"
        self.ports[replica] = (free_port(), free_port())
        self.start(replica, "flotilla", "replica", f"--data={self.folder / replica}", f"--port={self.ports[replica][0]}",
                   f"--peer-port={self.ports[replica][1]}", "--bind=127.0.0.1", "--insecure-bind", "--advertise=127.0.0.1",
                   "--zone=", f"--seed=127.0.0.1:{seed}")
        router = f"{RELEASE}-router-0"
        self.ports[router] = (free_port(),)
        nodes = [f"--node=127.0.0.1:{self.ports[f'{RELEASE}-shard-{i}'][0]}" for i in range(3)]
        self.start(router, "flotilla", "router", f"--port={self.ports[router][0]}", "--bind=127.0.0.1", "--insecure-bind",
                   "--lame-duck=0", *nodes)
        for name in self.processes:
            self.ready(name)
        self.api = f"http://127.0.0.1:{self.ports[router][0]}"

    def one_process(self):
        """What the small tiers run, as another release's only pod. Its address."""
        name = "small-node-0"
        self.ports[name] = (free_port(),)
        self.start(name, "flotilla", "up", f"--data={self.folder / name}", f"--port={self.ports[name][0]}", "--bind=127.0.0.1", "--insecure-bind")
        self.ready(name)
        return f"http://127.0.0.1:{self.ports[name][0]}"

    def ready(self, name):
        def answers():
            assert self.processes[name].poll() is None, f"{name} ended: {self.log(name)}"
            return get(f"http://127.0.0.1:{self.ports[name][0]}/readyz")
        within(120, f"{name} ready", answers)

    def ctl(self, *words, timeout=60, check=True, **env):
        """A command of the binary against the router."""
        done = subprocess.run(["flotilla", *words, "--to", self.api], env={**self.env, **env}, text=True, timeout=timeout,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert not check or done.returncode == 0, f"flotilla {' '.join(words)}: {done.stderr}"
        return done

    def fill(self, records=4000):
        draw = random.Random(7)
        vector = lambda: [round(draw.gauss(0, 1), 4) for _ in range(DIMS)]
        lines = (json.dumps({"id": i, "v": vector(), "title": f"record {i}"}) for i in range(records))
        (self.folder / "records.jsonl").write_text("\n".join(lines) + "\n")
        self.ctl("collections", "create", "docs", "--vector", f"default:{DIMS}:cosine:fast")
        rows = ("import", "--collection", "docs", "--records", str(self.folder / "records.jsonl"), "--vector-field", "v", "--key", "id")
        self.ctl(*rows)
        # A collection of the same name that is another one, and one too many.
        self.ctl("collections", "create", "docs", "--vector", f"default:{DIMS}:cosine:fast", FLOTILLA_API_KEY=self.tenant)
        self.ctl(*rows, FLOTILLA_API_KEY=self.tenant)
        refused = self.ctl("collections", "create", "more", check=False, FLOTILLA_API_KEY=self.tenant)
        assert refused.returncode != 0 and "max_collections" in refused.stderr, refused.stderr
        queries = [x for _ in range(60) for x in vector()]
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': (60, {DIMS}), }}".ljust(117) + "\n"
        (self.folder / "queries.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
                                                  + struct.pack(f"<{len(queries)}f", *queries))

    def search(self, seconds):
        self.ctl("bench", "search", "--collection", "docs", "--queries", str(self.folder / "queries.npy"), "--ef", "64",
                 "--clients", "2", "--seconds-per-ef", str(seconds))

    def targets(self):
        for name, ports in self.ports.items():
            release, component, _ = name.split("-")
            yield f"127.0.0.1:{ports[0]}", {"namespace": NAMESPACE, "release": release, "pod": name, "component": component}


def foreign(names):
    """What the kubelet and kube-state-metrics would tell of these pods, as Prometheus' text."""
    now = time.time()
    lines = []
    for i, pod in enumerate(sorted(names)):
        at = f'namespace="{NAMESPACE}",pod="{pod}",container="flotilla"'
        claim = f'namespace="{NAMESPACE}",persistentvolumeclaim="data-{pod}"'
        lines += [f"container_cpu_usage_seconds_total{{{at}}} {now % 1e6 * 0.3:.3f}",
                  f"container_memory_working_set_bytes{{{at}}} {2e9 + i}",
                  f'kube_pod_container_resource_limits{{{at},resource="cpu"}} 8', f'kube_pod_container_resource_limits{{{at},resource="memory"}} 16e9',
                  f"kube_pod_container_status_restarts_total{{{at}}} 0"]
        if "router" not in pod:
            lines += [f"kubelet_volume_stats_available_bytes{{{claim}}} 8e10", f"kubelet_volume_stats_capacity_bytes{{{claim}}} 1e11"]
    for name, pods in (("shard", SHARDS), ("replica", 1)):
        for metric in ("kube_statefulset_replicas", "kube_statefulset_status_replicas_ready"):
            lines.append(f'{metric}{{namespace="{NAMESPACE}",statefulset="{RELEASE}-{name}"}} {pods}')
    at = f'namespace="{NAMESPACE}",horizontalpodautoscaler="{RELEASE}-router"'
    lines += [f"kube_horizontalpodautoscaler_status_current_replicas{{{at}}} 3", f"kube_horizontalpodautoscaler_spec_max_replicas{{{at}}} 10"]
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def kubelet(names):
    """Serves that text; the port."""
    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            body = foreign(names).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()

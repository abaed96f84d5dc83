"""Flotilla's record queries beside PostgreSQL's, in one run.

  python records.py --bin FLOTILLA --bench FOLDER --out benches/results/NAME [--core 1] [--partitions N] [--skip-peer]

FOLDER has `records.py` (the peer, the rows under data/R.records.parquet and the parameters of 50 queries of each shape); it
keeps its results under $BENCH_WORK/results. The peer runs first, then ours: a server of its own in a folder of its own,
pinned to one core, loaded by `flotilla import` and asked over gRPC from another core. Wall time is the client's, CPU time the
server's, all threads. Writes NAME.json with every raw figure and prints the ratios. Needs grpcio-tools, psycopg, pyarrow.
"""
import argparse
import glob
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

PROTO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "proto")
BARS = dict(eq_name=1, eq_month=2, complex=5, agg=10, agg_filter=10, substr=2, fts_count=1, fts_top10=2)
FIELDS = {"name": "keyword", "version": "keyword", "month": "keyword", "rank": "integer", "summary": "text"}


def stubs(folder):
    """The client's code, made from the same files as the server's."""
    files = glob.glob(f"{PROTO}/flotilla/v1/*.proto")
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    subprocess.run([*command, *files], check=True)
    sys.path.insert(0, folder)
    names = ["record_pb2", "aggregate_pb2", "records_pb2_grpc", "records_pb2", "search_pb2", "search_pb2_grpc"]
    return {name: importlib.import_module(f"flotilla.v1.{name}") for name in names}


def cpu(pid):
    """Nanoseconds that all threads of the process have run."""
    total = 0
    for stat in glob.glob(f"/proc/{pid}/task/*/schedstat"):
        try:
            total += int(open(stat).read().split()[0])
        except OSError:
            pass  # The thread has ended.
    return total


class Server:
    def __init__(self, args, folder):
        self.folder = folder
        command = ["taskset", "-c", str(args.core), args.bin, "up", "--data", folder, "--port", "0"]
        # What is measured is the work, not what is remembered of it.
        own = {**os.environ, "FLOTILLA_CACHE_ENABLED": "false"}
        self.process = subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        line = self.process.stdout.readline()
        self.address = line.split("http://")[1].split(",")[0].strip()

    def close(self):
        self.process.terminate()
        self.process.wait()


def load(args, server):
    """Imports the rows; seconds, and bytes on disk once nothing is left to do."""
    to = f"http://{server.address}"
    fields = [word for name, kind in FIELDS.items() for word in ("--field", f"{name}:{kind}")]
    subprocess.run([args.bin, "collections", "create", "t", "--to", to, "--partitions", str(args.partitions), *fields], check=True)
    began, ran = time.perf_counter(), cpu(server.process.pid)
    rows = os.path.join(args.bench, "data", "R.records.parquet")
    subprocess.run([args.bin, "import", "--to", to, "--collection", "t", "--records", rows, "--key", "id"], check=True)
    wall, used = time.perf_counter() - began, (cpu(server.process.pid) - ran) / 1e9
    # Until two looks a second apart show no work.
    for _ in range(120):
        before = cpu(server.process.pid)
        time.sleep(1)
        if cpu(server.process.pid) - before < 20_000_000:
            break
    # As of the peer, the log is told apart: its files are made of their full size at once, and used again.
    sizes = {True: 0, False: 0}
    for at, _, names in os.walk(server.folder):
        is_log = os.path.relpath(at, server.folder).split(os.sep)[0] == "log"
        sizes[is_log] += sum(os.stat(os.path.join(at, name)).st_blocks * 512 for name in names)
    return dict(load_s_wall=wall, load_s_cpu=used, disk_bytes=sizes[False], log_bytes=sizes[True])


def queries(pb):
    """One function for each shape; how many rows, or the count."""
    record, records, search, agg = pb["record_pb2"], pb["records_pb2"], pb["search_pb2"], pb["aggregate_pb2"]
    text = lambda value: record.Value(text=value)
    whole = lambda value: record.Value(integer=value)
    filter_ = record.Filter
    equal = lambda field, value: filter_(equal=filter_.Equal(field=field, value=text(value)))
    between = lambda field, low, high: filter_(range=filter_.Range(field=field, gte=low, lte=high))
    both = lambda *parts: filter_(all=filter_.List(filters=parts))
    kinds = agg.Aggregation
    from_month = lambda month: filter_(range=filter_.Range(field="month", gte=text(month)))
    # As of the peer: all fields, or those that its statement names.
    scan = lambda f, fields=(): records.ScanRequest(collection="t", filter=f, limit=10_000, with_payload=True, fields=fields)
    count = lambda f: records.CountRequest(collection="t", filter=f)
    terms = lambda f, field, prefix, inner: records_aggregate(agg, f, kinds(
        field=field, terms=kinds.Terms(size=1_000, prefix_chars=prefix), aggregations=inner))
    shapes = dict(
        eq_name=lambda p: ("Scan", scan(equal("name", p[0]))),
        eq_month=lambda p: ("Scan", scan(equal("month", p[0]), ["name"])),
        complex=lambda p: ("Scan", scan(both(
            between("month", text(p[0]), text(p[1])), between("rank", whole(p[2]), whole(p[3])),
            filter_(prefix=filter_.Prefix(field="name", prefix=p[4]))), ["name"])),
        agg=lambda p: ("Aggregate", terms(None, "month", 0, {})),
        agg_filter=lambda p: ("Aggregate", terms(from_month(p[0]), "name", 1, {"avg": kinds(field="rank", metric=kinds.METRIC_AVG)})),
        substr=lambda p: ("Count", count(filter_(glob=filter_.Glob(field="summary", pattern=f"*{p[0]}*")))),
    )
    if "match" in filter_.DESCRIPTOR.fields_by_name:
        words = lambda p: f"{p[0]} {p[1]}"
        match = lambda p: filter_(match=filter_.Match(field="summary", query=words(p)))
        shapes["fts_count"] = lambda p: ("Count", count(match(p)))
    if "text" in search.SearchRequest.DESCRIPTOR.fields_by_name:
        kind = search.TextQuery.DESCRIPTOR.fields_by_name["operator"].enum_type.values_by_name
        all_words = next(value.number for name, value in kind.items() if name.endswith("_ALL"))
        query = lambda p: search.TextQuery(field="summary", query=words(p), operator=all_words)
        shapes["fts_top10"] = lambda p: ("Search", search.SearchRequest(collection="t", text=query(p), limit=10))
    return shapes


def records_aggregate(agg, filter_, aggregation):
    return agg.AggregateRequest(collection="t", filter=filter_, aggregations={"a": aggregation})


def size_of(verb, answer):
    if verb == "Count":
        return answer.count
    if verb == "Aggregate":
        return len(answer.results["a"].buckets.buckets)
    return len(answer.items if verb == "Scan" else answer.hits)


def measure(args, server, pb, params):
    import grpc

    options = [("grpc.max_receive_message_length", 64 << 20)]
    channel = grpc.insecure_channel(server.address, options=options)
    stubs = {"Search": pb["search_pb2_grpc"].SearchStub(channel)}
    stub = lambda verb: getattr(stubs.get(verb, records), verb)
    records = pb["records_pb2_grpc"].RecordsStub(channel)
    out = {}
    for shape, make in queries(pb).items():
        asked = [make(p) for p in params[shape]]
        for verb, message in asked[:3]:
            stub(verb)(message)
        wall, used, rows = [], [], 0
        for verb, message in asked:
            ran, began = cpu(server.process.pid), time.perf_counter_ns()
            answer = stub(verb)(message)
            wall.append((time.perf_counter_ns() - began) / 1e3)
            used.append((cpu(server.process.pid) - ran) / 1e3)
            rows += size_of(verb, answer)
        out[shape] = dict(p50_us=statistics.median(wall), p50_cpu_us=statistics.median(used), p99_us=max(wall), rows_or_count=rows)
        print(shape, out[shape], flush=True)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True)
    parser.add_argument("--bench", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--core", default="1")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--skip-peer", action="store_true")
    args = parser.parse_args()
    args.bin = os.path.abspath(args.bin)
    work = os.environ["BENCH_WORK"]
    peer_file = os.path.join(work, "results", "records_postgres.json")
    if not args.skip_peer:
        subprocess.run(["taskset", "-c", args.core, sys.executable, "records.py", "postgres"], cwd=args.bench, check=True)
    peer = json.load(open(peer_file))
    sys.path.insert(0, args.bench)
    bench = importlib.import_module("records")
    params = bench.params(bench.rows())
    with tempfile.TemporaryDirectory() as made:
        pb = stubs(made)
        folder = os.path.join(work, "records-ours")
        shutil.rmtree(folder, ignore_errors=True)
        server = Server(args, folder)
        try:
            loaded = load(args, server)
            found = measure(args, server, pb, params)
        finally:
            server.close()
    rows = peer["n"]
    print(f"\n{'shape':<12}{'bar':>5}{'cpu ratio':>11}{'wall ratio':>12}   ours cpu/wall us, peer cpu/wall us")
    for shape, mine in found.items():
        theirs = peer["q"][shape]
        ratios = theirs["p50_cpu_us"] / mine["p50_cpu_us"], theirs["p50_us"] / mine["p50_us"]
        figures = [round(v) for v in (mine["p50_cpu_us"], mine["p50_us"], theirs["p50_cpu_us"], theirs["p50_us"])]
        same = "" if mine["rows_or_count"] == theirs["rows_or_count"] else f"  rows {mine['rows_or_count']} vs {theirs['rows_or_count']}"
        print(f"{shape:<12}{BARS[shape]:>5}{ratios[0]:>11.2f}{ratios[1]:>12.2f}   {figures}{same}")
    print(f"load: {rows / loaded['load_s_wall']:.0f} rows/s; bytes per row {loaded['disk_bytes'] / rows:.0f}, peer {peer['disk_bytes'] / rows:.0f}")
    with open(args.out + ".json", "w") as file:
        json.dump(dict(ours=dict(loaded, q=found, partitions=args.partitions), peer=peer), file, indent=1)


if __name__ == "__main__":
    main()

"""Flotilla's vector search beside its peers', in one run, with charts.

  python compare.py --bin FLOTILLA --bench FOLDER --out benches/results/NAME [--peers hnswlib,faiss-hnsw-flat] [--data P]
  python compare.py --draw benches/results/NAME.json

FOLDER is a folder of adapters with `run_vec.py` (one engine, one process, one pinned core; it keeps its results under
$BENCH_WORK/results) and prepared data under $BENCH_WORK/data. The reference, faiss HNSWFlat with ef 64, is timed before and
after ours; figures are queries per CPU second divided by the reference's at the same recall. Writes NAME.json with every raw
figure, NAME-recall.svg, NAME-filtered.svg and NAME-memory.svg. Needs numpy and matplotlib.
"""
import argparse
import json
import math
import os
import subprocess
import sys

REFERENCE = "faiss-hnsw-flat"
EFS = "16,24,32,48,64,96,128,256,512"
FILTERED_EFS = "16,24,32,48,64,128"
KINDS = ["scalar", "binary", "none"]


def at(curve, recall):
    """Queries per CPU second at a recall: the best point above it, or between its neighbours on a logarithmic scale."""
    points = sorted((c["recall"], c["qps_cpu"]) for c in curve)
    above = [qps for r, qps in points if r >= recall]
    if not above:
        return None
    below = [p for p in points if p[0] < recall]
    best = max(above)
    if not below:
        return best
    (r0, q0), (r1, q1) = below[-1], next(p for p in points if p[0] >= recall)
    weight = (recall - r0) / (r1 - r0)
    return max(best, math.exp(math.log(q0) * (1 - weight) + math.log(q1) * weight))


def peer(args, engine):
    """One peer in a process of its own; its curve, and its curves under filters."""
    command = [sys.executable, os.path.join(args.bench, "run_vec.py"), "search", engine, args.data]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{engine} did not run (is its index built?)\n{done.stderr[-800:]}")
    with open(os.path.join(args.work, "results", f"search_{args.data}_{engine}.json")) as file:
        return json.load(file)


def ours(args, kind, extra=()):
    """`bench engine` of one quantization on one core; its lines."""
    data = os.path.join(args.work, "data", args.data)
    truth = [f"{data}.truth.npy"] if "--truth" not in extra else []
    command = ["taskset", "-c", str(args.core), args.bin, "bench", "engine", "--vectors", f"{data}.base.npy"]
    command += ["--queries", f"{data}.query.npy", "--limit", "10", "--quantization", kind]
    command += ["--truth", *truth] if truth else []
    command += list(extra) if "--ef" in extra else ["--ef", EFS, *extra]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"flotilla failed on {kind}: {done.stderr[-800:]}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for line in lines:
        line["qps_cpu"] = line.pop("cpu_qps")
    return lines


def measure(args):
    before = peer(args, REFERENCE)
    result = {"data": args.data, "reference": [before["curve"]], "ours": {}, "filtered": {}, "peers": {}}
    for kind in args.kinds.split(","):
        result["ours"][kind] = ours(args, kind)
    if args.records:
        with open(args.filters) as file:
            filters = json.load(file)
        for name, text in filters.items():
            truth = os.path.join(args.work, "data", f"{args.data}.truth.{name}.npy")
            extra = ["--records", args.records, "--filter", text, "--truth", truth, "--ef", FILTERED_EFS]
            result["filtered"][name] = ours(args, "scalar", extra)
    result["reference"].append(peer(args, REFERENCE)["curve"])
    for engine in filter(None, args.peers.split(",")):
        told = peer(args, engine)
        keep = ("curve", "filtered", "rss_per_vec", "ref_before", "ref_after")
        result["peers"][engine] = {key: told.get(key) for key in keep}
    return result


def ratios(result):
    """Ratio to the reference at the same recall, by engine."""
    told = {}
    for recall in (0.95, 0.99):
        base = math.sqrt(at(result["reference"][0], recall) * at(result["reference"][1], recall))
        for kind, lines in result["ours"].items():
            qps = at(lines, recall)
            told.setdefault(f"flotilla {kind}", {})[str(recall)] = qps and round(qps / base, 2)
        for engine, its in result["peers"].items():
            # Each peer was timed beside its own reference.
            own = [its[key]["qps_cpu"] for key in ("ref_before", "ref_after") if its.get(key)]
            now = next((c["qps_cpu"] for c in result["reference"][0] if c["ef"] == 64), None)
            scale = now / math.prod(own) ** (1 / len(own)) if own and now else 1.0
            qps = at(its["curve"], recall)
            told.setdefault(engine, {})[str(recall)] = qps and round(qps * scale / at(result["reference"][0], recall), 2)
    return told


def draw(result, stem):
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    curves = {f"flotilla {kind}": lines for kind, lines in result["ours"].items()}
    curves |= {REFERENCE: result["reference"][0]}
    curves |= {engine: its["curve"] for engine, its in result["peers"].items()}

    def plot(axes, curve, label):
        points = sorted((c["recall"], c["qps_cpu"]) for c in curve if c["recall"] >= 0.8)
        style = "-o" if label.startswith("flotilla") else "--s"
        axes.plot(*zip(*points), style, label=label, markersize=3) if points else None

    figure, axes = plt.subplots(figsize=(8, 5))
    for label, curve in curves.items():
        plot(axes, curve, label)
    axes.set(xlabel="recall@10", ylabel="queries per CPU second", yscale="log", title=f"{result['data']}: one core")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(f"{stem}-recall.svg")

    if result["filtered"]:
        figure, all_axes = plt.subplots(1, len(result["filtered"]), figsize=(13, 4), squeeze=False)
        for axes, (name, lines) in zip(all_axes[0], result["filtered"].items()):
            plot(axes, lines, "flotilla scalar")
            for engine, its in result["peers"].items():
                plot(axes, (its.get("filtered") or {}).get(name, []), engine)
            axes.set(xlabel="recall@10", ylabel="queries per CPU second", yscale="log", title=f"filter {name}")
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7)
        figure.tight_layout()
        figure.savefig(f"{stem}-filtered.svg")

    figure, axes = plt.subplots(figsize=(8, 5))
    floor = at(result["reference"][0], 0.95)
    sizes = {f"flotilla {kind}": lines[0]["bytes_per_vector"] for kind, lines in result["ours"].items()}
    sizes |= {engine: its["rss_per_vec"] for engine, its in result["peers"].items() if its.get("rss_per_vec")}
    for label, size in sizes.items():
        fast = [c["recall"] for c in curves[label] if c["qps_cpu"] >= floor]
        if fast:
            axes.plot(size, max(fast), "o" if label.startswith("flotilla") else "s")
            axes.annotate(label, (size, max(fast)), fontsize=8, xytext=(4, 4), textcoords="offset points")
    axes.set(xlabel="bytes per vector, vectors included", ylabel="recall@10 at the reference's speed", title=result["data"])
    axes.grid(alpha=0.3)
    figure.savefig(f"{stem}-memory.svg")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin")
    parser.add_argument("--bench")
    parser.add_argument("--out")
    parser.add_argument("--draw")
    parser.add_argument("--data", default="P")
    parser.add_argument("--core", default="1")
    parser.add_argument("--peers", default="hnswlib")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--records", help="records of the vectors, for the filtered part")
    parser.add_argument("--filters", help="JSON: by name, a filter; truths are DATA.truth.NAME.npy")
    args = parser.parse_args()
    if args.draw:
        with open(args.draw) as file:
            return draw(json.load(file), args.draw.removesuffix(".json"))
    if not (args.bin and args.bench and args.out):
        parser.error("--bin, --bench and --out are needed")
    args.work = os.environ.get("BENCH_WORK") or os.path.expanduser("~/.cache/flotilla-bench")
    result = measure(args)
    result["ratios"] = ratios(result)
    with open(f"{args.out}.json", "w") as file:
        json.dump(result, file, indent=1)
    for engine, its in result["ratios"].items():
        print(engine, its)
    draw(result, args.out)


main()

"""Takes the networks that people have from PyTorch to deployment at full width, and writes a table of how far each came.

    network_matrix.py [--binary GHOSTBIT] [--only NAME...] [--exporter script|dynamo] [--skip-quantize] [--quantize OPTION...]

For each network of `tests/networks/zoo.py` and each of PyTorch's exporters: export, float logits (`eval --inputs --logits`)
beside ONNX Runtime's, a short `quantize` with the default recipe, both ONNX exports, and their logits in ONNX Runtime beside
the engine's. The light graphs of the onnx package come last, with drawn weights. Weights are random, so the table says
nothing about accuracy. A step that fails ends its row only. Needs PyTorch, torchvision, timm, onnx, onnxscript,
safetensors and ONNX Runtime. Results go to docs/results/network_matrix.jsonl, one line per file, and network_matrix.md, the table. Rows of
networks that are not run again are kept.
"""
import argparse, json, pathlib, shutil, subprocess, sys, tempfile, time, traceback, warnings, zlib
import numpy as np
from safetensors.numpy import load_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "networks"))
import zoo

RESULTS = ROOT / "docs" / "results"
STEPS = ["export", "import", "float", "quantize", "export onnx-int8", "export onnx-qdq", "engine", "onnx-int8", "onnx-qdq"]
# Largest distance of float logits, as a part of their range, largest less smallest.
NEAR = 1e-4
# Codes at the edge between two steps may differ between float networks and codes: the engine's and ONNX Runtime's logits then
# differ by more than rounding for single images. The median of all logits may not.
NEAR_MEDIAN = 1e-3
QUANTIZE = ["--batch", "2", "--iters", "4", "--set", "warmup=2", "--set", "images.count=4", "--set", "images.iters=2",
            "--set", "ranges.batches=1", "--set", "reconstruction.iters=2", "--set", "eval_every=4"]

class Failed(Exception):
    """A step, and the reason."""

def light_names():
    import onnx
    return sorted(p.stem for p in (pathlib.Path(onnx.__file__).parent / "backend/test/data/light").glob("*.onnx"))

def make_file(name, exporter, path):
    """Writes the network with random weights; returns its images and how many classes it has."""
    import exporters
    seed = zlib.crc32(name.encode())
    if exporter == "light":
        return light_file(name, path, np.random.default_rng(seed))
    import torch, narrow
    from images import images
    entry = zoo.ALL[name]
    torch.manual_seed(seed)
    model = zoo.build(name, 10 if name in zoo.CIFAR else 1000).eval()
    x = images(seed, (1, 3, entry.full, entry.full))
    narrow.draw(model, torch.from_numpy(x), narrow.Width(shift=entry.shift), np.random.default_rng(seed))
    exporters.export(model, torch.from_numpy(x), path, exporter)
    return x

def light_file(name, path, random):
    """A light graph of the onnx package whose equal weights are replaced by drawn ones."""
    import onnx
    from onnx import numpy_helper
    model = onnx.load(pathlib.Path(onnx.__file__).parent / "backend/test/data/light" / f"{name}.onnx")
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    made, nodes = {}, []
    readers = {v: (n.op_type, i) for n in model.graph.node for i, v in enumerate(n.input)}
    for n in model.graph.node:
        if n.op_type != "ConstantOfShape":
            nodes.append(n)
            continue
        shape = constants[n.input[0]]
        op, place = readers.get(n.output[0], ("", 0))
        draw = random.standard_normal(shape, dtype=np.float32)
        if op in ("Conv", "Gemm") and place == 1:
            draw *= np.float32(np.sqrt(2 / np.prod(shape[1:])))
        elif op == "BatchNormalization" and place == 4:
            draw = random.uniform(0.5, 1.5, shape).astype(np.float32)
        elif op in ("BatchNormalization", "Unsqueeze") and place in (0, 1):
            draw = 1 + draw / 8
        else:
            draw /= 8
        made[n.output[0]] = draw
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in made.items())
    kept = {t.name for t in model.graph.initializer}
    images = [i for i in model.graph.input if i.name not in kept]
    onnx.save(model, path)
    shape = [d.dim_value or 1 for d in images[0].type.tensor_type.shape.dim]
    return random.standard_normal(shape, dtype=np.float32)

def logits_of(path, x, optimised):
    """ONNX Runtime's logits as rows; of a file that ends in Softmax, of what goes into it."""
    import exporters, onnx
    model = onnx.load(path, load_external_data=False)
    makers = {o: n for n in model.graph.node for o in n.output}
    name = model.graph.output[0].name
    while name in makers and makers[name].op_type in ("Softmax", "LogSoftmax", "Identity"):
        name = makers[name].input[0]
    if name != model.graph.output[0].name:
        model.graph.output[0].name = name
        model.graph.output[0].type.tensor_type.ClearField("shape")
        path = path.with_name("logits.onnx")
        onnx.save(model, path)
    session = exporters.session(path, optimised)
    y = session.run(None, {session.get_inputs()[0].name: x})[0]
    return y.reshape(len(x), -1)

class Row:
    def __init__(self, options, name, exporter, folder):
        self.options, self.folder = options, folder
        self.record = {"network": name, "exporter": exporter, "steps": {}}
        self.net = folder / "net.onnx"

    def ghostbit(self, *arguments):
        command = [str(self.options.binary), *map(str, arguments)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=self.options.timeout, cwd=self.folder)
        except subprocess.TimeoutExpired:
            raise Failed(f"took longer than {self.options.timeout} s")
        if done.returncode:
            lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
            raise Failed(f"exit status {done.returncode}: " + " ".join(lines[-3:])[:400])

    def logits(self, *arguments):
        out = self.folder / "logits.safetensors"
        out.unlink(missing_ok=True)
        self.ghostbit("eval", *arguments, "--inputs", self.folder / "x.npz", "--logits", out)
        return next(iter(load_file(out).values())).reshape(-1)

    def step(self, name, run):
        start = time.monotonic()
        try:
            found = run()
        except Failed as e:
            self.record["failed"], self.record["why"] = name, str(e)
            raise
        except Exception as e:
            self.record["failed"], self.record["why"] = name, f"{type(e).__name__}: {e}"[:400]
            raise Failed(name) from e
        self.record["steps"][name] = round(time.monotonic() - start, 1)
        return found

    def near(self, what, found, want, largest=None, median=None):
        if found.size != want.size:
            raise Failed(f"{found.size} logits, {want.size} expected")
        apart = np.abs(found.reshape(want.shape) - want) / (want.max() - want.min())
        self.record[what] = {"largest": float(apart.max()), "median": float(np.median(apart))}
        if not (apart.max() <= (largest or np.inf) and np.median(apart) <= (median or np.inf)):
            raise Failed(f"logits are {apart.max():.1e} of their range apart, {np.median(apart):.1e} in the median")

    def run(self):
        name, exporter = self.record["network"], self.record["exporter"]
        def export():
            x = make_file(name, exporter, self.net)
            np.savez(self.folder / "x.npz", x=x)
            self.record["bytes"] = sum(p.stat().st_size for p in self.folder.glob("net.onnx*"))
            return x, logits_of(self.net, x, optimised=False)
        x, want = self.step("export", export)
        self.record["classes"] = want.shape[1]
        found = self.step("import", lambda: self.logits("--model", self.net))
        self.step("float", lambda: self.near("float", found, want, largest=NEAR))
        if self.options.skip_quantize:
            return
        run, student = self.folder / "run", self.folder / "run" / "quantized.safetensors"
        budget = self.options.quantize or QUANTIZE
        self.step("quantize", lambda: self.ghostbit("quantize", "--model", self.net, "--out", run, *budget))
        forms = ("onnx-int8", "onnx-qdq")
        for form in forms:
            write = lambda: self.ghostbit("export", "--arch", self.net, "--model", student, "--format", form, "--out", self.folder / f"{form}.onnx")
            self.step(f"export {form}", write)
        engine = self.step("engine", lambda: self.logits("--integer", run / "integer.safetensors")).reshape(want.shape)
        for form in forms:
            path = self.folder / f"{form}.onnx"
            self.step(form, lambda: self.near(form, logits_of(path, x, optimised=True), engine, median=NEAR_MEDIAN))

def one(options, name, exporter):
    """One row, in a process of its own, so that memory is returned and a crash stays with it."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="network_matrix_", dir=options.folder))
    row = Row(options, name, exporter, folder)
    try:
        row.run()
    except Failed:
        pass
    except Exception:
        row.record["failed"], row.record["why"] = "script", traceback.format_exc()[-400:]
    finally:
        if not options.keep:
            shutil.rmtree(folder)
    print(json.dumps(row.record), flush=True)

def table(records):
    lines = ["# Networks from PyTorch to deployment", "",
             "Made by `benches/network_matrix.py`: random weights, full width, the default recipe with a tiny budget. Distances are parts",
             "of the range of the logits: float logits beside ONNX Runtime's (largest), ONNX exports beside the engine (median, largest).",
             "Rows without a time of `quantize` were made with `--skip-quantize`: import and float logits only. Networks without a row were not run.", "",
             "| network | exporter | MB | float | quantize, s | onnx-int8 | onnx-qdq | failed at |", "|---|---|---|---|---|---|---|---|"]
    show = lambda r, what: "" if what not in r else f"{r[what]['median']:.1e}, {r[what]['largest']:.1e}"
    for r in records:
        distance = f"{r['float']['largest']:.1e}" if "float" in r else ""
        why = f"{r['failed']}: {r['why']}".replace("|", "\\|").replace("\n", " ")[:200] if "failed" in r else ""
        lines.append(f"| {r['network']} | {r['exporter']} | {r.get('bytes', 0) / 1e6:.1f} | {distance} | {r['steps'].get('quantize', '')} | "
                     f"{show(r, 'onnx-int8')} | {show(r, 'onnx-qdq')} | {why} |")
    right = sum("failed" not in r for r in records)
    return "\n".join(lines) + f"\n\n{right} of {len(records)} files pass every step that was asked for.\n"

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/ghostbit")
    parser.add_argument("--only", nargs="*", help="networks; `light` stands for the light graphs")
    parser.add_argument("--exporter", nargs="*", default=["script", "dynamo"])
    parser.add_argument("--skip-quantize", action="store_true")
    parser.add_argument("--quantize", nargs=argparse.REMAINDER, help="options of `quantize` in place of the tiny budget; last")
    parser.add_argument("--timeout", type=int, default=1800, help="seconds that one call of the program may take")
    parser.add_argument("--folder", help="where files are made [default: the system's temporary folder]")
    parser.add_argument("--keep", action="store_true", help="keep those files")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.binary = options.binary.resolve()
    if options.one:
        warnings.filterwarnings("ignore")
        return one(options, *options.one)
    rows = [(name, exporter) for name in zoo.ALL for exporter in options.exporter] + [(name, "light") for name in light_names()]
    if options.only:
        unknown = set(options.only) - {"light"} - {name for name, _ in rows}
        if unknown:
            parser.error(f"no such networks: {', '.join(sorted(unknown))}")
        rows = [r for r in rows if r[0] in options.only or ("light" in options.only and r[1] == "light")]
    if not options.binary.exists():
        parser.error(f"{options.binary} is not there: build it (cargo build --release) or give --binary")
    options.results.mkdir(parents=True, exist_ok=True)
    lines = options.results / "network_matrix.jsonl"
    old = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    records = {(r["network"], r["exporter"]): r for r in old}
    failed = 0
    for name, exporter in rows:
        # The rest of the command line goes to each process as it is.
        done = subprocess.run([sys.executable, __file__, "--one", name, exporter, *sys.argv[1:]], capture_output=True, text=True)
        found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"network"')]
        record = found[-1] if found else {"network": name, "exporter": exporter, "steps": {}, "failed": "script", "why": done.stderr[-300:]}
        records[name, exporter] = record
        failed += "failed" in record
        print(f"{name:26} {exporter:8} " + (f"FAILED {record['failed']}: {record['why']}" if "failed" in record else "right"), flush=True)
        lines.write_text("".join(json.dumps(r) + "\n" for r in records.values()))
        (options.results / "network_matrix.md").write_text(table(list(records.values())))
    print(f"{len(rows) - failed} of {len(rows)} files pass")
    sys.exit(failed > 0)

if __name__ == "__main__":
    main()

"""Makes narrow twins of the networks that people have: `make_twins.py [--only NAME] [--raw FOLDER] [--jobs N]`.

A twin has its network's graph with few channels, and random weights and batch-norm statistics (`narrow.py`). Both of
PyTorch's exporters write it. `twins/NAME.EXPORTER.onnx.gz` are the files; `twins/twins.json` holds, for each, the size
and seed of its images (`images.py`) and ONNX Runtime's logits. Needs PyTorch, torchvision, timm, onnx, onnxscript and
ONNX Runtime. With `--raw` the files also go to FOLDER/EXPORTER/NAME.onnx uncompressed, with x and y in NAME.npz.
"""
import argparse, gzip, json, pathlib, subprocess, sys, tempfile, warnings, zlib
import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
import exporters, zoo
from images import images

CLASSES = 10
IMAGES = 3
# Exporters whose files are kept for these networks only.
SOME = {
    "dynamo_noopt": ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "densenet121", "googlenet", "shufflenet_v2_x1_0",
                     "regnet_y_400mf", "hrnet_w18_small", "mixnet_s", "cifar_vgg16_bn", "cifar_senet18"],
    "script_dynamic": ["resnet18", "shufflenet_v2_x1_0", "inception_v3_transform", "tf_efficientnet_lite0", "ghostnet_100",
                       "cspresnet50", "cifar_vgg16_bn", "cifar_senet18"],
    "dynamo_dynamic": ["resnet18", "shufflenet_v2_x1_0", "googlenet_transform", "regnet_y_400mf", "cifar_vgg16_bn"],
}

def twin(name):
    import torch, narrow
    entry = zoo.ALL[name]
    seed = zlib.crc32(name.encode())
    torch.manual_seed(seed)
    model = zoo.build(name, CLASSES).eval()
    x = images(seed, (IMAGES, 3, *entry.size))
    width = narrow.Width(entry.divisor, entry.multiple, keep=(CLASSES,), shift=entry.shift)
    y = narrow.draw(model, torch.from_numpy(x), width, np.random.default_rng(seed))
    return model, seed, x, y.numpy()

def store(path, exporter, record, raw, x, y):
    import onnx
    model = onnx.load(path)
    if raw:
        folder = pathlib.Path(raw) / exporter
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(model, folder / f"{record['network']}.onnx")
        np.savez(folder / f"{record['network']}.npz", x=x, y=y)
    exporters.strip(model)
    record["norms"] = sum(n.op_type == "BatchNormalization" for n in model.graph.node)
    (HERE / "twins").mkdir(exist_ok=True)
    with open(HERE / "twins" / record["file"], "wb") as out:
        with gzip.GzipFile("", "wb", 9, out, mtime=0) as packed:
            packed.write(model.SerializeToString(deterministic=True))

def make(name, raw, only_exporter):
    """Prints one JSON line per file."""
    import torch
    torch.set_num_threads(1)
    model, seed, x, want = twin(name)
    for exporter in exporters.EXPORTERS:
        if only_exporter and exporter != only_exporter:
            continue
        keep = exporter not in SOME or name in SOME[exporter]
        if not keep and not raw:
            continue
        record = {"network": name, "exporter": exporter, "file": f"{name}.{exporter}.onnx.gz"}
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder) / "net.onnx"
                exporters.export(model, torch.from_numpy(x[:1]), path, exporter)
                y = exporters.onnxruntime_logits(path, x)
                apart = float(np.abs(y - want).max() / y.std())
                if not apart < 5e-5:
                    raise ValueError(f"ONNX Runtime's logits are {apart:.1e} of their spread from PyTorch's")
                rows = y - y.mean(0)
                if not (0.2 < y.std() < 5 and rows.std() > 0.05 * y.std()):
                    raise ValueError(f"logits have spread {y.std():.3f}, {rows.std():.3f} between images")
                record |= {"torch": torch.__version__, "seed": seed, "images": list(x.shape), "spread": float(y.std()),
                           "logits": [[float(f"{v:.9g}") for v in row] for row in y]}
                if keep:
                    store(path, exporter, record, raw, x, y)
                else:
                    exporters.copy(path, pathlib.Path(raw) / exporter, name, x, y)
                    continue
        except Exception as e:
            record["error"] = f"{type(e).__name__}: {e}"[:400]
        print(json.dumps(record), flush=True)

def run(name, options):
    command = [sys.executable, __file__, "--one", name]
    command += ["--raw", options.raw] if options.raw else []
    command += ["--exporter", options.exporter] if options.exporter else []
    done = subprocess.run(command, capture_output=True, text=True)
    records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"network"')]
    if done.returncode or not records:
        records.append({"network": name, "exporter": "-", "error": done.stderr[-600:]})
    for r in records:
        print(f"{name:26} {r['exporter']:16} {r.get('error') or f'''spread {r['spread']:.2f}, {r['norms']} norms'''}", flush=True)
    return records

def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", nargs="*", default=list(zoo.ALL))
    parser.add_argument("--exporter")
    parser.add_argument("--raw")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        warnings.filterwarnings("ignore")
        return make(options.one, options.raw, options.exporter)
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(options.jobs) as pool:
        new = [r for records in pool.map(lambda name: run(name, options), options.only) for r in records]
    path = HERE / "twins" / "twins.json"
    old = json.loads(path.read_text()) if path.exists() else []
    key = lambda r: (r["network"], r["exporter"])
    records = {key(r): r for r in old + [r for r in new if "error" not in r]}
    lines = [json.dumps(records[k]) for k in sorted(records)]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    faults = [r for r in new if "error" in r]
    print(f"{len(new) - len(faults)} files made, {len(faults)} failed")
    sys.exit(bool(faults))

if __name__ == "__main__":
    main()

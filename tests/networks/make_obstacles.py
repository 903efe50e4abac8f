"""Makes small ONNX files that each hold one obstacle: `make_obstacles.py [--only NAME...] [--raw FOLDER]`.

`obstacles.tar.gz` holds NAME.onnx, what lies beside some of them, and obstacles.json. That has for each file the size and
seed of its images (`images.py`) and ONNX Runtime's logits, or the word with which it must be refused. With `--only` the
archive stays as it is. Needs onnx and ONNX Runtime.
"""
import argparse, gzip, io, json, pathlib, sys, tarfile
import numpy as np, onnx

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from obstacle_model import CASES, COUNT
# Each of these adds its cases to the table.
import obstacle_channels, obstacle_files, obstacle_refused, obstacle_values, obstacle_windows

ARCHIVE = pathlib.Path(__file__).parent / "obstacles.tar.gz"

def logits_of(m, model):
    """What the network gives; without the Softmax at its end, which is no part of the logits."""
    makers = {o: n for n in model.graph.node for o in n.output}
    name = getattr(m, "logits", m.outputs[0])
    while name in makers and makers[name].op_type in ("Softmax", "LogSoftmax", "Identity") and makers[name].input[0] in makers:
        name = makers[name].input[0]
    y = m.value(name)
    assert y.size == COUNT * y.shape[1], f"logits of shape {y.shape}"
    return y.reshape(COUNT, -1)

def pack(files):
    """One gzipped tar archive, the same bytes for the same files."""
    with open(ARCHIVE, "wb") as out, gzip.GzipFile("", "wb", 9, out, mtime=0) as packed:
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for name, data in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))

def make(name, entry, raw):
    m = entry["make"]()
    model = m.graph(m.outputs)
    record = {"network": name, "exporter": "onnx.helper", "file": f"{name}.onnx", "images": [COUNT, *m.size], "seed": m.seed,
              "layout": m.layout}
    record |= {key: entry[key] for key in ("refuse", "may_refuse") if entry[key] is not None}
    if getattr(m, "spoil", None):
        m.spoil(model)
    if not entry["broken"]:
        onnx.checker.check_model(model, full_check=True)
    if entry["refuse"] is None:
        y = logits_of(m, model)
        between = (y - y.mean(0)).std()
        assert np.isfinite(y).all() and 0.1 < y.std() < 20 and between > 0.05 * y.std(), f"spread {y.std():.3f}, {between:.3f} between images"
        m.value(m.outputs[0], model)
        record |= {"spread": float(y.std()), "logits": [[float(f"{v:.9g}") for v in row] for row in y]}
    finish = getattr(m, "finish", None)
    if finish:
        finish(model)
    data = model.SerializeToString(deterministic=True)
    data = m.bytes(data) if getattr(m, "bytes", None) else data
    if m.files:
        record["beside"] = sorted(m.files)
    files = {record["file"]: data, **m.files}
    if raw:
        for file, content in files.items():
            (raw / file).write_bytes(content)
        if "logits" in record:
            np.savez(raw / f"{name}.npz", x=m.fed(), y=y)
    return record, files

def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--raw", type=pathlib.Path)
    options = parser.parse_args()
    if options.raw:
        options.raw.mkdir(parents=True, exist_ok=True)
    records, files, faults = [], {}, 0
    for name, entry in CASES.items():
        if options.only and name not in options.only:
            continue
        try:
            record, own = make(name, entry, options.raw)
            records.append(json.dumps(record))
            files |= own
        except Exception as e:
            faults += 1
            print(f"{name}: {type(e).__name__}: {str(e)[:300]}", flush=True)
    print(f"{len(records)} files made, {faults} failed")
    if not options.only and not faults:
        pack({"obstacles.json": ("[\n" + ",\n".join(records) + "\n]\n").encode(), **files})
    sys.exit(bool(faults))

if __name__ == "__main__":
    main()

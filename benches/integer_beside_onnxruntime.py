"""Seconds of the integer engine beside ONNX Runtime on the same network, in turn: `integer_beside_onnxruntime.py GHOSTBIT QUANTIZED [THREADS]`.

GHOSTBIT is the program, QUANTIZED a quantized.safetensors of a CIFAR ResNet-20. Every round times the engine and its float
network (`ghostbit bench integer`), then ONNX Runtime on `onnx-qdq`, `onnx-int8` and the float network (onnx-qdq without its
quantizers), at batch 1 and 64. Printed are medians over rounds, and one JSON line per round.
"""
import json, pathlib, statistics, subprocess, sys, tempfile, time
import numpy as np, onnx, onnxruntime

ROUNDS, BATCHES = 7, (1, 64)

def without_quantizers(model):
    """The float network: values pass by their quantizers, weights are the values of their codes, and what is constant per channel
    behind a convolution is folded into it."""
    graph, constants = model.graph, {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    passed, kept, folded = {}, [], {}
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = passed.get(name, name)
        is_constant = node.op_type in ("Mul", "Sub", "Add") and node.input[1] in constants
        behind = folded.get(node.input[0]) if is_constant else None
        # Steps of a quantizer.
        scaled = is_constant and constants[node.input[1]].ndim == 0
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            codes, step, zero = (constants[n].astype(np.float32) for n in node.input)
            rows = (-1,) + (1,) * (codes.ndim - 1)
            constants[node.output[0]] = (codes - zero.reshape(rows)) * step.reshape(rows)
        elif behind is not None and not scaled:
            v = constants[node.input[1]].reshape(-1)
            scale, shift = {"Mul": (v, 0), "Sub": (1, -v), "Add": (1, v)}[node.op_type]
            behind["scale"], behind["shift"] = behind["scale"] * scale, behind["shift"] * scale + shift
            passed[node.output[0]] = node.input[0]
        elif node.op_type in ("QuantizeLinear", "Clip", "DequantizeLinear", "Div") or scaled:
            passed[node.output[0]] = node.input[0]
        else:
            kept.append(node)
            if node.op_type == "Conv":
                weight, *bias = (constants[n] for n in node.input[1:])
                shift = bias[0] if bias else np.zeros(len(weight), np.float32)
                folded[node.output[0]] = {"node": node, "weight": weight, "scale": np.ones_like(shift), "shift": shift}
    for conv in folded.values():
        name = conv["node"].output[0]
        del conv["node"].input[1:]
        conv["node"].input.extend([f"{name}/w", f"{name}/b"])
        constants[f"{name}/w"] = conv["weight"] * conv["scale"].reshape(-1, 1, 1, 1)
        constants[f"{name}/b"] = conv["shift"]
    used = {name for node in kept for name in node.input}
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in constants.items() if n in used)
    return model

def seconds(session, batch):
    feed = {session.get_inputs()[0].name: np.random.default_rng(1).normal(size=(batch, 3, 32, 32)).astype(np.float32)}
    taken = []
    for i in range(max(12, 400 // batch)):
        start = time.perf_counter()
        session.run(None, feed)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[2:])

def main(ghostbit, quantized, threads="2"):
    folder = pathlib.Path(tempfile.mkdtemp())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = int(threads), 3
    sessions = {}
    for form in ("onnx-qdq", "onnx-int8"):
        path = folder / f"{form}.onnx"
        subprocess.run([ghostbit, "export", "--model", quantized, "--format", form, "--out", path], check=True, stdout=subprocess.DEVNULL)
        sessions[form] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    float_model = without_quantizers(onnx.load(folder / "onnx-qdq.onnx")).SerializeToString()
    sessions["onnx float"] = onnxruntime.InferenceSession(float_model, options, providers=["CPUExecutionProvider"])
    rounds = []
    for _ in range(ROUNDS):
        command = [ghostbit, "bench", "integer", "--json", "--iters", "5", "--threads", threads, "--batch", str(BATCHES[1])]
        engine = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        row = {}
        for speed in engine["speed"]:
            row[f"ghostbit integer {speed['batch']}"] = speed["integer_seconds"]
            row[f"ghostbit float {speed['batch']}"] = speed["float_seconds"]
        for name, session in sessions.items():
            for batch in BATCHES:
                row[f"{name} {batch}"] = seconds(session, batch)
        rounds.append(row)
        print(json.dumps({"device": engine["device"], "onnxruntime": onnxruntime.__version__, "seconds": row}), flush=True)
    for batch in BATCHES:
        base = f"ghostbit integer {batch}"
        for name in ("ghostbit integer", "ghostbit float", *sessions):
            key = f"{name} {batch}"
            ratio = statistics.median(r[key] / r[base] for r in rounds)
            print(f"batch {batch:<3} {name:18} {1e3 * statistics.median(r[key] for r in rounds):8.3f} ms, {ratio:5.2f} times the integer engine")

if __name__ == "__main__":
    main(*sys.argv[1:])

"""Predictions of the integer engine beside ONNX Runtime's, image by image: `agreement_with_onnxruntime.py GHOSTBIT CIFAR10 QUANTIZED...`.

GHOSTBIT is the program, CIFAR10 a file of CIFAR-10 records, each QUANTIZED a quantized.safetensors of a network that reads them.
ONNX Runtime runs both forms at its default optimisation level. One JSON line per network and form.
"""
import json, pathlib, subprocess, sys, tempfile
import numpy as np, onnxruntime
from safetensors.numpy import load_file

def main(ghostbit, images, *networks):
    records = np.fromfile(images, np.uint8).reshape(-1, 3073)
    labels, pixels = records[:, 0], records[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32) / np.float32(255)
    folder = pathlib.Path(tempfile.mkdtemp())
    run = lambda *arguments: subprocess.run([ghostbit, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)
    for network in networks:
        integer, logits = folder / "integer.safetensors", folder / "logits.safetensors"
        run("export", "--model", network, "--format", "safetensors", "--out", integer)
        run("eval", "--integer", integer, "--eval", f"cifar10:{images}", "--logits", logits)
        (want,) = load_file(logits).values()
        for form in ("onnx-qdq", "onnx-int8"):
            path = folder / f"{form}.onnx"
            run("export", "--model", network, "--format", form, "--out", path)
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            norm = json.loads(session.get_modelmeta().custom_metadata_map["ghostbit.normalization"])
            mean, std = (np.array(norm[part], np.float32).reshape(1, 3, 1, 1) for part in ("mean", "std"))
            x = (pixels - mean) / std
            name = session.get_inputs()[0].name
            found = np.concatenate([session.run(None, {name: x[i : i + 100]})[0] for i in range(0, len(x), 100)])
            apart = np.abs(found - want).max(1)
            print(json.dumps({
                "network": pathlib.Path(network).parent.name, "form": form, "onnxruntime": onnxruntime.__version__,
                "images": len(x), "right_engine": int((want.argmax(1) == labels).sum()),
                "right_onnxruntime": int((found.argmax(1) == labels).sum()),
                "same_prediction": int((found.argmax(1) == want.argmax(1)).sum()),
                "logits_apart_by_0.001": int((apart > 1e-3).sum()), "largest_distance": float(apart.max()),
            }), flush=True)

if __name__ == "__main__":
    main(*sys.argv[1:])

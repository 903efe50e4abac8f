"""Checks ONNX models against logits that ghostbit's integer engine gave: `onnx_check.py FOLDER`.

For every NAME.onnx there are NAME.images (f32, channels last) and NAME.logits (f32). The ONNX checker must take the model, with
shape inference; ONNX Runtime at its default optimisation level must give the same predictions wherever the engine's two largest
logits are further apart than rounding, and logits that agree up to a small part of their spread. Models whose images have codes
too (`i8` in the name) compute with integers from the first layer on: every logit agrees up to the rounding of its last sum.
"""
import pathlib, re, sys
import numpy as np, onnx, onnxruntime

# A value at the edge between two codes may fall to the other side, and turn a prediction whose two largest logits are nearer
# than this part of the spread; no other.
CLEAR = 0.02
# With integers from the images on.
ROUNDING = 1e-5
# Median distance of logits as a part of their spread.
NEAR = 1e-3

def run(path):
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape[1:]
    x = np.fromfile(path.with_suffix(".images"), np.float32)
    if len(shape) == 3:
        c, h, w = shape
        x = x.reshape(-1, h, w, c).transpose(0, 3, 1, 2)
    else:
        x = x.reshape(-1, *shape)
    found = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(x)})[0]
    want = np.fromfile(path.with_suffix(".logits"), np.float32).reshape(found.shape)
    return found, want

def main(folder):
    faults = []
    for path in sorted(pathlib.Path(folder).glob("*.onnx")):
        try:
            found, want = run(path)
        except Exception as e:
            faults.append(f"{path.name}: {e}")
            print(f"{path.name}: {str(e)[:300]}")
            continue
        spread = want.std()
        apart = np.abs(found - want)
        top = np.sort(want, axis=1)
        integers = re.search(r"a\di\d-", path.name)
        clear = top[:, -1] - top[:, -2] > (ROUNDING if integers else CLEAR) * spread
        same = found.argmax(1) == want.argmax(1)
        print(f"{path.name:44} same {same.sum():4} of {same.size:4}, unlike though clear {int((clear & ~same).sum())}, "
              f"logits apart: median {np.median(apart) / spread:.1e}, largest {apart.max() / spread:.1e} of their spread")
        far = apart.max() > ROUNDING * spread if integers else np.median(apart) > NEAR * spread
        if (clear & ~same).any() or far:
            faults.append(path.name)
    if faults:
        sys.exit("faults: " + "; ".join(faults))

if __name__ == "__main__":
    main(sys.argv[1])

"""Small float ONNX models written node by node, and the table that collects them: `Model`, `case`, `refused`."""
import zlib
import numpy as np, onnxruntime
from onnx import TensorProto, helper, numpy_helper
from images import images

CLASSES = 10
COUNT = 4
CASES = {}

class Model:
    """A model under construction. `value` computes what its nodes give so far, so that the last layer can be scaled."""

    def __init__(self, name, opset=17, size=(3, 8, 8), batch="n", layout="nchw", ir=10):
        self.name, self.opset, self.size, self.batch, self.layout, self.ir = name, opset, size, batch, layout, ir
        self.seed = zlib.crc32(name.encode())
        self.random = np.random.default_rng(self.seed)
        self.nodes, self.constants, self.domains = [], [], [("", opset)]
        self.input_type, self.outputs, self.listed, self.files = TensorProto.FLOAT, [], False, {}
        self.x = images(self.seed, (COUNT, *size))

    def constant(self, values, name=None, dtype=None):
        values = np.asarray(values, dtype)
        values = values.astype({np.dtype(np.float64): np.float32}.get(values.dtype, values.dtype)) if dtype is None else values
        name = name or f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, order="C"), name))
        return name

    def input(self, v):
        return v if isinstance(v, str) else self.constant(v)

    def op(self, op, *inputs, outputs=1, domain="", **attributes):
        """Adds a node; inputs are names, or values that become constants. Returns its output, or the list of them."""
        inputs = [self.input(v) for v in inputs]
        name = f"{op.lower()}_{len(self.nodes)}" + ("_value" if op == "Constant" else "")
        names = [name] if outputs == 1 else [f"{name}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name="/" + name, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def uniform(self, low, high, *shape):
        """Multiples of 1/16."""
        return np.float32(self.random.integers(round(low * 16), round(high * 16) + 1, shape) / 16)

    def weight(self, *shape):
        fan = np.prod(shape[1:])
        return np.float32(self.random.choice([-2, -1, 0, 1, 2], shape) * 2.0 ** -round(np.log2(np.sqrt(fan) * 1.2)))

    def conv(self, x, k, window=3, bias=False, groups=1, weight=None, **attributes):
        r, s = (window, window) if isinstance(window, int) else window
        if "pads" not in attributes and "auto_pad" not in attributes:
            attributes["pads"] = [r // 2, s // 2, r // 2, s // 2]
        if groups > 1:
            attributes["group"] = groups
        w = self.constant(self.weight(k, self.channels(x) // groups, r, s), f"conv_{len(self.nodes)}.weight")
        b = [self.constant(self.uniform(-0.5, 0.5, k), f"conv_{len(self.nodes)}.bias")] if bias else []
        return self.op("Conv", x, w, *b, kernel_shape=[r, s], **attributes)

    def norm(self, x, wide=1.0, **attributes):
        """Batch norm with drawn statistics, one gamma in five negative; `wide` spreads what it gives."""
        c, v = self.channels(x), self.value(x)
        axes = tuple(i for i in range(v.ndim) if i != 1)
        step = lambda t: np.float32(np.round(t * 16) / 16)
        gamma = self.uniform(0.5, 1.5, c) * self.random.choice(np.float32([1, 1, 1, 1, -1]), c) * np.float32(wide)
        mean = step(v.mean(axes) + self.uniform(-0.25, 0.25, c))
        var = np.maximum(step(v.var(axes) * self.uniform(0.75, 1.5, c)), np.float32(1 / 16))
        parts = [gamma, self.uniform(-0.5, 0.5, c) * np.float32(wide), mean, var]
        names = [self.constant(p, f"norm_{len(self.nodes)}.{n}") for n, p in zip(("gamma", "beta", "mean", "var"), parts)]
        if self.opset < 9:
            attributes |= {"spatial": 1} if self.opset == 7 else {}
        return self.op("BatchNormalization", x, *names, **{"epsilon": 1e-5} | attributes)

    def block(self, x, k, *args, **attributes):
        """Convolution, batch norm, ReLU."""
        return self.op("Relu", self.norm(self.conv(x, k, *args, **attributes)))

    def stem(self, k=8):
        return self.block("x", k)

    def linear(self, x, k=CLASSES):
        """A Gemm whose outputs are spread about 1, between images too; the last layer unless more is added."""
        w = self.weight(k, self.channels(x))
        y = self.value(x) @ w.T
        w *= np.float32(2.0 ** -round(np.log2(max(float((y - y.mean(0)).std()), float(y.std()) / 16) + 1e-9)))
        y = self.value(x) @ w.T
        b = np.float32(np.round((np.linspace(-1, 1, k) - y.mean(0)) * 16) / 16)
        name = f"gemm_{len(self.nodes)}"
        return self.op("Gemm", x, self.constant(w, name + ".weight"), self.constant(b, name + ".bias"), transB=1)

    def pooled(self, x):
        return self.op("Flatten", self.op("GlobalAveragePool", x), axis=1)

    def head(self, x):
        return self.linear(self.pooled(x))

    def layered_head(self, x):
        """One more convolution behind what is tested, then the head."""
        return self.head(self.block(x, 8))

    # What is built

    def graph(self, outputs):
        info = lambda name, kind, shape: helper.make_tensor_value_info(name, kind, shape)
        c, h, w = self.size
        shape = [self.batch, h, w, c] if self.layout == "nhwc" else [self.batch, c, h, w]
        inputs = [info("x", self.input_type, shape)]
        if self.listed:
            inputs += [info(t.name, t.data_type, t.dims) for t in self.constants]
        results = [info(o, TensorProto.FLOAT, [self.batch] + [None] * (self.rank(o) - 1)) for o in outputs]
        graph = helper.make_graph(self.nodes, self.name, inputs, results, self.constants)
        opsets = [helper.make_opsetid(*d) for d in self.domains]
        return helper.make_model(graph, opset_imports=opsets, ir_version=self.ir, producer_name="obstacles")

    def rank(self, name):
        return getattr(self, "ranks", {}).get(name, 2)

    def fed(self):
        x = self.x.transpose(0, 2, 3, 1) if self.layout == "nhwc" else self.x
        return np.ascontiguousarray(x).astype(helper.tensor_dtype_to_np_dtype(self.input_type))

    def value(self, name, model=None):
        """What `name` is for the images: batch by batch of the size that the model has."""
        if name == "x" and model is None:
            return self.fed()
        if model is None:
            model = self.graph([name])
            model.graph.output[0].type.tensor_type.ClearField("shape")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        x, step = self.fed(), self.batch if isinstance(self.batch, int) else COUNT
        return np.concatenate([session.run([name], {"x": x[i : i + step]})[0] for i in range(0, COUNT, step)])

    def channels(self, x):
        return self.value(x).shape[1]

def case(name, refuse=None, may_refuse=None, head="layered_head", broken=False, **options):
    """Registers `build(m)` or `build(m, x)` (x behind the stem; its result goes to the head) as an obstacle.

    `refuse`: the importer must refuse it, with this word (or words, split by ", ") in its message. `may_refuse`: right
    logits, or such a refusal. `broken`: neither the ONNX checker nor ONNX Runtime is asked.
    """
    def register(build):
        assert name not in CASES, name
        def make():
            m = Model(name, **options)
            if build.__code__.co_argcount - len(build.__defaults__ or ()) == 2:
                y = build(m, m.stem())
                m.outputs = [getattr(m, head)(y) if head else y]
            else:
                y = build(m)
                m.outputs = m.outputs or [y]
            return m
        CASES[name] = dict(make=make, refuse=refuse, may_refuse=may_refuse, broken=broken)
        return build
    return register

def refused(name, word, **options):
    return case(name, refuse=word, **options)

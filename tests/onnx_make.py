"""Makes float ONNX models that are none of ghostbit's, with random weights: `onnx_make.py FOLDER`.

For every NAME.onnx it writes NAME.images (f32, channels last) and NAME.logits (f32), which ONNX Runtime computed without
optimisations, so that it folds nothing.
"""
import pathlib, sys
import numpy as np, onnx, onnxruntime
from onnx import TensorProto, helper, numpy_helper

IMAGES = 32

class Model:
    def __init__(self, name, size, opset, seed):
        self.name, self.size, self.opset = name, size, opset
        self.random = np.random.default_rng(seed)
        self.nodes, self.constants = [], []

    def constant(self, name, values):
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def op(self, op, inputs, **attributes):
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def weight(self, name, shape):
        spread = np.sqrt(2 / np.prod(shape[1:]))
        return self.constant(name, (self.random.standard_normal(shape) * spread).astype(np.float32))

    def norm(self, x, k):
        draw = lambda low, high: self.random.uniform(low, high, k).astype(np.float32)
        name = f"norm{len(self.nodes)}"
        parts = [("gamma", 0.5, 1.5), ("beta", -0.5, 0.5), ("mean", -0.5, 0.5), ("var", 0.5, 1.5)]
        parts = [self.constant(f"{name}.{part}", draw(low, high)) for part, low, high in parts]
        return self.op("BatchNormalization", [x, *parts], epsilon=1e-5)

    def conv(self, x, k, c, r, bias=False, **attributes):
        name = f"conv{len(self.nodes)}"
        inputs = [x, self.weight(f"{name}.weight", (k, c, r, r))]
        if bias:
            inputs.append(self.constant(f"{name}.bias", self.random.uniform(-0.5, 0.5, k).astype(np.float32)))
        return self.norm(self.op("Conv", inputs, **attributes), k)

    def relu6(self, x):
        if self.opset < 11:
            return self.op("Clip", [x], min=0.0, max=6.0)
        ends = [self.constant(f"end{len(self.constants)}", np.float32(v)) for v in (0, 6)]
        return self.op("Clip", [x, *ends])

    def save(self, folder, output):
        value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        graph = helper.make_graph(self.nodes, self.name, [value("x", ["n", *self.size])], [value(output, ["n", None])],
                                  self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        path = folder / f"{self.name}.onnx"
        onnx.save(model, path)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        x = self.random.standard_normal((IMAGES, *self.size)).astype(np.float32)
        x.transpose(0, 2, 3, 1).tofile(path.with_suffix(".images"))
        session.run(None, {"x": x})[0].astype(np.float32).tofile(path.with_suffix(".logits"))

def vgg(folder):
    """Plain layers with biases, a flattened map, batch norm of rows, matrix product and bias apart."""
    m = Model("vgg", (3, 16, 12), 13, 1)
    x = "x"
    for k, c in [(8, 3), (16, 8)]:
        x = m.op("Relu", [m.conv(x, k, c, 3, bias=True, pads=[1] * 4)])
        x = m.op("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
    shape = m.op("Shape", [x])
    batch = m.op("Gather", [shape, m.constant("first", np.int64(0))], axis=0)
    batch = m.op("Unsqueeze", [batch, m.constant("axis", np.int64([0]))])
    shape = m.op("Concat", [batch, m.constant("rest", np.int64([-1]))], axis=0)
    x = m.op("Reshape", [x, shape])
    bias = m.constant("hidden.bias", m.random.uniform(-0.5, 0.5, 24).astype(np.float32))
    x = m.op("Gemm", [x, m.weight("hidden.weight", (24, 16 * 4 * 3)), bias], transB=1)
    x = m.op("Dropout", [m.op("Relu", [m.norm(x, 24)])])
    x = m.op("MatMul", [x, m.constant("last.weight", m.random.standard_normal((24, 7)).astype(np.float32))])
    x = m.op("Add", [x, m.constant("last.bias", np.linspace(-1, 1, 7, dtype=np.float32))])
    m.save(folder, x)

def bottleneck(folder):
    """Residual bottlenecks with projections, a strided 5x5 stem, dilation, mean over axes."""
    m = Model("bottleneck", (1, 15, 17), 18, 2)
    x = m.op("Relu", [m.conv("x", 8, 1, 5, strides=[2, 2], pads=[2] * 4)])
    x = m.op("MaxPool", [x], kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
    for k, c, stride, dilation in [(16, 8, 1, 2), (24, 16, 2, 1)]:
        y = m.op("Relu", [m.conv(x, c // 2, c, 1)])
        y = m.op("Relu", [m.conv(y, c // 2, c // 2, 3, strides=[stride] * 2, pads=[dilation] * 4, dilations=[dilation] * 2)])
        y = m.conv(y, k, c // 2, 1)
        skip = m.conv(x, k, c, 1, strides=[stride] * 2)
        x = m.op("Relu", [m.op("Add", [skip, y])])
    x = m.op("ReduceMean", [x, m.constant("axes", np.int64([-1, -2]))], keepdims=0)
    x = m.op("Gemm", [x, m.weight("last.weight", (24, 5)), m.constant("last.bias", np.float32([0.1]))])
    m.save(folder, m.op("Softmax", [x], axis=-1) if False else x)

def mobile(folder):
    """Depthwise layers, ReLU6, leaky ReLU, an old operator set."""
    m = Model("mobile", (3, 12, 12), 9, 3)
    x = m.relu6(m.conv("x", 8, 3, 3, strides=[2, 2], pads=[1] * 4))
    for k, c, stride in [(12, 8, 1), (16, 12, 2)]:
        y = m.relu6(m.conv(x, 2 * c, c, 1))
        y = m.op("LeakyRelu", [m.conv(y, 2 * c, 1, 3, group=2 * c, strides=[stride] * 2, pads=[1] * 4)], alpha=0.1)
        x = m.conv(y, k, 2 * c, 1)
    x = m.op("Flatten", [m.op("GlobalAveragePool", [x])])
    m.save(folder, m.op("Gemm", [x, m.weight("last.weight", (6, 16)), m.constant("b", np.zeros(6, np.float32))], transB=1))

def dense(folder):
    """Concatenated branches, ReLU6, average pooling, a classifier that is a convolution."""
    m = Model("dense", (3, 8, 8), 21, 4)
    x = m.relu6(m.conv("x", 6, 3, 3, auto_pad="SAME_UPPER"))
    c = 6
    for _ in range(2):
        y = m.op("Relu", [m.conv(x, 5, c, 3, pads=[1] * 4)])
        x, c = m.op("Concat", [x, y], axis=1), c + 5
    x = m.op("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2])
    x = m.op("Relu", [m.norm(x, c)])
    x = m.op("GlobalAveragePool", [x])
    x = m.op("Conv", [x, m.weight("last.weight", (9, c, 1, 1))])
    m.save(folder, m.op("Flatten", [x]))

if __name__ == "__main__":
    for make in (vgg, bottleneck, mobile, dense):
        make(pathlib.Path(sys.argv[1]))

"""PyTorch's two ONNX exporters as people call them, and what ONNX Runtime computes with their files."""
import numpy as np, onnx, onnxruntime, torch

def script(model, x, path, **more):
    """The exporter by tracing, with batch norms kept."""
    torch.onnx.export(model, (x,), str(path), dynamo=False, training=torch.onnx.TrainingMode.PRESERVE,
                      do_constant_folding=False, input_names=["x"], output_names=["y"], **more)

def dynamo(model, x, path, **more):
    """PyTorch's default; it folds batch norms into convolutions unless `optimize` is False."""
    torch.onnx.export(model, (x,), str(path), dynamo=True, verbose=False, **more)

EXPORTERS = {
    "script": script,
    "dynamo": dynamo,
    "dynamo_noopt": lambda *a: dynamo(*a, optimize=False),
    "script_dynamic": lambda *a: script(*a, dynamic_axes={"x": {0: "n"}, "y": {0: "n"}}),
    "dynamo_dynamic": lambda m, x, path: dynamo(m, torch.cat([x, x]), path, dynamic_shapes=({0: torch.export.Dim("n")},)),
}

def export(model, x, path, exporter):
    EXPORTERS[exporter](model.eval(), x, path)

def session(path, optimised=False):
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

def onnxruntime_logits(path, x):
    """f32 `[n, classes]`, image by image, without optimisations."""
    run = session(path)
    name = run.get_inputs()[0].name
    return np.concatenate([run.run(None, {name: x[i : i + 1]})[0] for i in range(len(x))]).astype(np.float32)

def strip(model):
    """Drops what no importer reads: traces of source lines, types of inner values, producers' notes."""
    for value in [*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output, model.graph, model]:
        value.doc_string = ""
        if hasattr(value, "metadata_props"):
            del value.metadata_props[:]
    del model.graph.value_info[:]
    del model.functions[:]

def copy(path, folder, name, x, y):
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(onnx.load(path), folder / f"{name}.onnx")
    np.savez(folder / f"{name}.npz", x=x, y=y)

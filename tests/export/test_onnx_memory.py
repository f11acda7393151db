"""The bytes that live at once in a pass of an ONNX file, against a count by hand."""

import numpy as np
from later import Later

from kd_research.export.onnx_memory import peak_memory_bytes

onnx = Later("onnx", extra="export")
Later("onnxruntime", extra="export")


def test_a_tensor_lives_until_it_was_read_last(tmp_path):
    make, floats = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        make.make_node("MatMul", ["x", "w"], ["wide"]),  # 8 columns
        make.make_node("Relu", ["wide"], ["rest"]),  # wide lives on
        make.make_node("Reshape", ["rest", "shape"], ["same"]),  # takes no bytes of its own
        make.make_node("Concat", ["same", "wide"], ["both"], axis=1),  # 16 columns
        make.make_node("ReduceSum", ["both"], ["out"], keepdims=1),
    ]
    weights = [
        onnx.numpy_helper.from_array(np.ones((4, 8), dtype=np.float32), "w"),
        onnx.numpy_helper.from_array(np.array([-1, 8]), "shape"),
    ]
    graph = make.make_graph(
        nodes,
        "net",
        [make.make_tensor_value_info("x", floats, ["batch", 4])],
        [make.make_tensor_value_info("out", floats, [1, 1])],
        weights,
    )
    opset = [make.make_opsetid("", 17)]
    path = tmp_path / "net.onnx"
    onnx.save(make.make_model(graph, opset_imports=opset, ir_version=8), path)
    held = 4 * 8 * 4 + 2 * 8
    for rows in (1, 5):
        x = np.ones((rows, 4), dtype=np.float32)
        at_once = 4 * rows * (8 + 8 + 16)  # in Concat: rest, wide and both
        assert peak_memory_bytes(path, {"x": x}) == held + x.nbytes + at_once

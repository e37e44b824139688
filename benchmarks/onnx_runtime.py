"""ONNX Runtime as a rival, where onnx and onnxruntime are installed: nothing asks for them."""

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray

IS_THERE = find_spec("onnx") is not None and find_spec("onnxruntime") is not None


def linear(layer: torch.nn.Linear) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Return a float32 layer as ONNX Runtime computes it, with one thread."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    shapes = {"x": ["n", layer.in_features], "y": ["n", layer.out_features]}
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    )
    weights = {"w": layer.weight, "b": layer.bias}
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)],
        "linear",
        [x],
        [y],
        [numpy_helper.from_array(w.detach().numpy(), name) for name, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda x: session.run(["y"], {"x": x})[0]

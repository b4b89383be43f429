"""onnxruntime on the CPU."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import psutil

from stages.machine import cores
from stages.runtimes.base import Execution, Job, RuntimeFailureError
from stages.runtimes.versions import version_of

# Operators with weights, and the weights' position; other operators compute little.
_WEIGHTS_INPUT = {"Conv": 1, "FusedConv": 1, "Gemm": 1, "FusedGemm": 1, "MatMul": 1}
_QUANTIZED_WEIGHTS_INPUT = {"QLinearConv": 3, "QGemm": 3, "QLinearMatMul": 3}


class OnnxRuntime:
    """As :class:`stages.runtimes.base.Runtime`; always installed."""

    name = "onnxruntime"
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8_u8s8", "int8_s8s8")

    def version(self) -> str | None:
        return version_of(self.name)

    def run(self, model: Path | bytes, jobs: Sequence[Job]) -> Execution:
        # onnxruntime's exceptions share no narrower base class.
        try:
            session, dtypes = self._load(model)
            feed = session.get_inputs()[0].name
            logits = [
                np.concatenate([session.run(None, {feed: batch})[0] for batch in job.batches()])
                for job in jobs
            ]
        except Exception as error:
            raise RuntimeFailureError(" ".join(str(error).split())) from None
        return Execution(logits, session.get_providers()[0], dtypes)

    def _load(self, model: Path | bytes) -> tuple[onnxruntime.InferenceSession, list[str]]:
        options = session_options()
        options.log_severity_level = 3
        with tempfile.TemporaryDirectory() as folder:
            options.optimized_model_filepath = f"{folder}/optimized.onnx"
            session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
            dtypes = compute_dtypes(onnx.load(options.optimized_model_filepath))
        return session, dtypes


def session_options() -> onnxruntime.SessionOptions:
    """Return options for a session with a thread per physical core that this process may use.

    By default onnxruntime counts all cores of the machine. If this process may use fewer, its
    threads wait for each other, and a model takes more than twice as long.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = min(cores(), psutil.cpu_count(logical=False) or 1)
    return options


def compute_dtypes(optimized: onnx.ModelProto) -> list[str]:
    """Return the formats in which an optimised graph multiplies by its weights.

    A format without a kernel appears as the one it is cast to.
    """
    constants = {
        tensor.name: onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name
        for tensor in optimized.graph.initializer
    }
    producers = {output: node for node in optimized.graph.node for output in node.output}
    found = set()
    for node in optimized.graph.node:
        position = _WEIGHTS_INPUT.get(node.op_type, _QUANTIZED_WEIGHTS_INPUT.get(node.op_type))
        if position is None:
            continue
        name = node.input[position]
        producer = producers.get(name)
        # Dequantised weights have the format of their scale.
        if producer is not None and producer.op_type == "DequantizeLinear":
            name = producer.input[1]
        if name in constants:
            found.add(constants[name])
    return sorted(found)

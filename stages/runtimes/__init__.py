"""Run an exported model: torch, onnxruntime, TensorRT, LiteRT."""

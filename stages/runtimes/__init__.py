"""Run exported models in torch, onnxruntime, TensorRT and LiteRT."""

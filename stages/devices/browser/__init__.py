"""Any browser as a device: a page runs the models with onnxruntime-web and sends the results."""

"""Any browser as a device: a page runs the student with onnxruntime-web and sends the results."""

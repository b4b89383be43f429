"""Run stages.runtimes.tensorrt_engine on the CPU with the stand-in for TensorRT."""

import time

import torch


class Stream:
    cuda_stream = 0

    def wait_stream(self, stream: "Stream") -> None:
        pass

    def synchronize(self) -> None:
        pass


class Event:
    def __init__(self, enable_timing: bool = False) -> None:
        self._at = 0.0

    def record(self, stream: Stream) -> None:
        self._at = time.perf_counter() * 1000

    def elapsed_time(self, end_event: "Event") -> float:
        return end_event._at - self._at


if __name__ == "__main__":
    from stages.runtimes import tensorrt_engine

    torch.cuda.Stream, torch.cuda.Event, torch.cuda.current_stream = Stream, Event, Stream
    torch.cuda.get_device_name = lambda: "a stand-in for a GPU"
    tensorrt_engine.DEVICE = "cpu"
    tensorrt_engine.main()

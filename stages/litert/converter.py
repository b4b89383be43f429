"""Write the LiteRT files: ``python -m stages.litert.converter``.

``fp32 TARGET`` converts the student with its preprocessing; ``int8 SOURCE TARGET COUNT`` quantises
that file with ``COUNT`` training images. Only this module imports the converter, which takes
seconds to load.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from models.networks.checkpoint import load_network
from stages.data.arrays import load_data
from stages.runtimes.litert_runtime import INPUT, OUTPUT, SIGNATURE
from stages.runtimes.parity import STUDENT
from stages.runtimes.torch_runtime import DeployedNetwork


class _Named(nn.Module):
    """Names the output; the input gets the parameter's name."""

    def __init__(self, network: DeployedNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {OUTPUT: self.network(images)}


def convert(target: Path) -> None:
    """Convert the student to float32, for one image uint8 ``[1, H, W, 3]``, with preprocessing."""
    import litert_torch

    data = load_data()
    network = DeployedNetwork(load_network(STUDENT), data.mean, data.std)
    example = torch.zeros(1, data.image_size, data.image_size, 3, dtype=torch.uint8)
    with torch.no_grad():
        model = litert_torch.convert(_Named(network).eval(), sample_kwargs={INPUT: example})
    model.export(str(target))


def quantize(source: Path, target: Path, count: int) -> None:
    """Quantise ``source`` to int8 weights per channel and int8 activations, with float32 logits."""
    from ai_edge_quantizer import algorithm_manager, calibrator, qtyping, quantizer, recipe
    from ai_edge_quantizer.recipe_manager import RecipeManager
    from ai_edge_quantizer.utils import qsv_utils

    maker = quantizer.Quantizer(str(source))
    maker.load_quantization_recipe(recipe.static_wi8_ai8())
    maker.update_quantization_recipe(
        regex=".*",
        operation_name=qtyping.TFLOperationName.OUTPUT,
        algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE,
    )
    manager = RecipeManager()
    manager.load_quantization_recipe(maker.get_quantization_recipe())
    # Not maker.calibrate, which averages the images' ranges and thus clips rare values.
    ranges = calibrator.Calibrator(str(source), qsv_update_func=qsv_utils.min_max_update)
    images = load_data().calibration_images(count)
    ranges.calibrate({SIGNATURE: [{INPUT: image[None]} for image in images]}, manager)
    maker.quantize(ranges.get_model_qsvs()).export_model(str(target))


if __name__ == "__main__":
    made, *given = sys.argv[1:]
    if made == "fp32":
        convert(Path(given[0]))
    else:
        quantize(Path(given[0]), Path(given[1]), int(given[2]))

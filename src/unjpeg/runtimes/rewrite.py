"""Graphs rewritten, as OpenVINO reads them, into ones that compute the same in fewer passes over the pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["interpolate_by_convolution", "take_bytes"]


def interpolate_by_convolution(model: Any) -> None:
    """Make bilinear enlargements by whole numbers convolutions of the small maps, in place: the same to the last bits.

    The runtime's own takes as long as several convolutions of the large ones.
    """
    from openvino import opset13

    for node in model.get_ordered_ops():
        factor = _bilinear_factor(node)
        if factor is None:
            continue
        small = node.input_value(0)
        channels = small.get_partial_shape()[1].get_length()
        # Pixel i of an enlarged one lies this far from its middle; it and its neighbours have these parts of it.
        offsets = (np.arange(factor) - (factor - 1) / 2) / factor
        parts = np.stack([np.maximum(-offsets, 0), 1 - np.abs(offsets), np.maximum(offsets, 0)], axis=1)
        square = np.einsum("ya,xb->yxab", parts, parts).reshape(factor**2, 3, 3)
        kernel = np.zeros((channels, factor**2, channels, 3, 3), np.float32)
        kernel[np.arange(channels), :, np.arange(channels)] = square
        edged = opset13.pad(small, [0, 0, 1, 1], [0, 0, 1, 1], "edge")
        weights = opset13.constant(kernel.reshape(-1, channels, 3, 3))
        pixels = opset13.convolution(edged, weights, [1, 1], [0, 0], [0, 0], [1, 1])
        _put_in_place(node, opset13.depth_to_space(pixels, "depth_first", factor))
    model.validate_nodes_and_infer_types()


def take_bytes(model: Any, image: str) -> None:
    """Let a graph from an image to an image take its pixels as they lie in memory, in place.

    ``(1, 3, H, W)`` float32, range 0..1, becomes ``(1, H, W, 3)``: uint8 at the input, float32, range 0..255, at the
    output. What that takes is done by all of the runtime's threads.
    """
    import openvino
    from openvino import opset13

    (node,) = (one for one in model.get_parameters() if one.get_output_tensor(0).get_any_name() == image)
    _, channels, height, width = node.get_output_shape(0)
    pixels = opset13.parameter([1, height, width, channels], np.uint8, name=image)
    pixels.output(0).get_tensor().set_names({image})
    planes = opset13.transpose(opset13.convert(pixels, "f32"), opset13.constant([0, 3, 1, 2]))
    _put_in_place(node, opset13.multiply(planes, opset13.constant(np.float32(1 / 255))))
    model.add_parameters([pixels])
    model.remove_parameter(node)
    (result,) = model.get_results()
    levels = opset13.multiply(result.input_value(0), opset13.constant(np.float32(255)))
    model.add_results([openvino.op.Result(opset13.transpose(levels, opset13.constant([0, 2, 3, 1])).output(0))])
    model.remove_result(result)
    model.validate_nodes_and_infer_types()


def _put_in_place(node: Any, other: Any) -> None:
    for target in node.output(0).get_target_inputs():
        target.replace_source_output(other.output(0))


def _bilinear_factor(node: Any) -> int | None:
    """By which a node enlarges rows and columns as half-pixel bilinear interpolation does; None for others."""
    if node.get_type_name() != "Interpolate":
        return None
    facts = node.get_attributes()
    scales = node.input_value(1).get_node()
    if (
        facts["mode"] not in ("linear", "linear_onnx")
        or facts["coordinate_transformation_mode"] != "half_pixel"
        or facts["shape_calculation_mode"] != "scales"
        or facts["antialias"]
        or any((*facts["pads_begin"], *facts["pads_end"]))
        or scales.get_type_name() != "Constant"
        or node.get_input_size() > 2
        or not node.input_value(0).get_partial_shape()[1].is_static
    ):
        return None
    by = [float(scale) for scale in scales.get_data().ravel()]
    alike = len(by) == 4 and by[:2] == [1, 1] and by[2] == by[3] and by[2] >= 2 and by[2] == int(by[2])
    return int(by[2]) if alike else None

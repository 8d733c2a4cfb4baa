"""PLACEHOLDER, to be replaced: the calibration data that suits a model."""

from blip_openvino.ir.optimize import calibration_dataset

__all__ = ["calibration_dataset"]

"""Ways to compute the same forecasts, measured, and the fastest one that leaves the ranks alone.

``SetNetwork``   a whole set as one module, raw features in and forecasts out.
``export_onnx``  the same as one ONNX file; ``OnnxSet`` runs it without torch's arithmetic.
``forecaster``   a stand-in for `model.ensemble.forecast_ensembles` that goes through one of the paths.
``measure_paths``, ``choose_path``  float32, bf16, compiled, ONNX and int8 beside each other, and the choice.
"""

from vnfleet.model.ensemble import SetForecaster
from vnfleet.model.inference.network import SetNetwork
from vnfleet.model.inference.onnx_export import OnnxSet, export_onnx, quantise_onnx
from vnfleet.model.inference.paths import (
    MIN_RANK_AGREEMENT,
    OUTPUTS_PER_CALL,
    PATH_NAMES,
    ForecastPath,
    PathMeasurement,
    PathName,
    choose_path,
    forecast_with,
    forecaster,
    measure_paths,
    open_path,
    path_problem,
)

__all__ = [
    "MIN_RANK_AGREEMENT",
    "OUTPUTS_PER_CALL",
    "PATH_NAMES",
    "ForecastPath",
    "OnnxSet",
    "PathMeasurement",
    "PathName",
    "SetForecaster",
    "SetNetwork",
    "choose_path",
    "export_onnx",
    "forecast_with",
    "forecaster",
    "measure_paths",
    "open_path",
    "path_problem",
    "quantise_onnx",
]

"""A trained run as one file that other programs run: StableHLO or ONNX."""

"""Networks from outside the catalogue: PyTorch modules, timm's names, ONNX files.

A front end (`pytorch`, `onnx_file`) turns a model into a program of primitive operations (`program`); `recognise` finds what they mean;
`build` makes layers of them; `blocks` finds the residual blocks. `model` is the door.
"""

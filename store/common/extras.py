"""Optional dependencies: which extra of the distribution brings a module that is not installed."""

EXTRAS = {
    "inspect": ("matplotlib", "PIL"),
    "cloud": ("obstore",),
    "lossless": ("pcodec",),
    "train": ("matplotlib", "PIL", "simplejpeg", "tensorboard", "timm", "torch"),
    "extract": ("cryptography", "dask", "distributed", "numba", "PIL", "simplejpeg", "timm", "torch", "torchvision"),
    "eval": (
        *("cryptography", "dask", "distributed", "jinja2", "matplotlib", "numba", "PIL", "scipy", "simplejpeg"),
        *("sklearn", "tensorboard", "timm", "torch", "torchvision"),
    ),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
    "view": ("PIL", "duckdb", "faiss", "starlette", "uvicorn"),
    "heads": ("cv2", "h5py", "poselib", "trimesh"),
    "demo": ("skimage",),
    "body": ("anny", "trimesh"),
}
"""Modules by extra. Those of an extra named like a program are what that program needs."""

EXTRA_OF = {"init": "extract"}  # of programs that have none of their own name


def missing_extra(module: str, *, program: str) -> str | None:
    """Return the message for a module that a program could not import; None if no extra brings it.

    Args:
        module: dotted name of the module that was not found.
        program: `store`, `extract`, `view` and so on, whose own extra is named if it brings the module.
    """
    top = module.partition(".")[0]
    extras = [extra for extra in (EXTRA_OF.get(program, program), *EXTRAS) if top in EXTRAS.get(extra, ())]
    if not extras:
        return None
    return f"'{top}' is not installed. Run: pip install 'codistill[{extras[0]}]'"

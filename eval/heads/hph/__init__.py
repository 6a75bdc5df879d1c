"""Multi-HMR's human perception head on tokens of a backbone or of a frozen student."""

from eval.heads.hph.files import load

__all__ = ["load"]

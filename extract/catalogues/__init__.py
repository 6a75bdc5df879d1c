"""Catalogues that ship with codistill."""

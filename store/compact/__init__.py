"""Conversion of a cache into a smaller one: tokens in a code, or float16 compressed without loss. The source stays."""

"""Measures and pictures what students learnt."""

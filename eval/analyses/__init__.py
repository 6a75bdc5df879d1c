"""The paper's analyses, one file a figure: what students learn from their teachers, and why."""

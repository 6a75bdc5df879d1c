"""The paper's analyses: pictures and curves that show why a student is good or not."""

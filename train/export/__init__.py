"""Export of trained students: folders that timm, torch.hub and the Hugging Face hub read, ONNX, files of naver/dune."""

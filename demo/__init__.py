"""The demo: photographs and small pretrained teachers that come inside Python wheels."""

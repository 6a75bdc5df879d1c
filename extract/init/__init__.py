"""`codistill init`: look at folders of images and write a catalogue of them."""
